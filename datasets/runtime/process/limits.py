"""Limits that a process sets for itself, so that hostile input costs that process and not the machine."""

from __future__ import annotations

import contextlib
import resource
import time


def limit_memory(num_bytes: int) -> None:
    """Bound the private writable memory that this process may take beyond what it has now. Linux only, else no limit.

    RLIMIT_AS would also count mapped files and reserved addresses.
    """
    try:
        with open("/proc/self/status") as file:
            taken = sum(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    except OSError:
        return
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    limit = taken + num_bytes if allowed == resource.RLIM_INFINITY else min(taken + num_bytes, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def limit_cpu(seconds: int) -> None:
    """Have the system end this process (SIGXCPU) once it used that much more CPU time. Each call sets a new limit."""
    _, allowed = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # a lower limit that the user set stays
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + seconds + 1, allowed))
