"""Programs that run on the machines of a cluster: the watchdog, and the notices of a preemption.

A cluster file starts them before anything is installed, so they need Python 3.9 and its standard library alone.
"""
