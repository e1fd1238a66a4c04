"""Removes a known message of Ray's C++ code from standard error."""

from __future__ import annotations

import os
import subprocess
import sys

KNOWN_NOISE = (
    r"core_worker\.cc:[0-9]+: Actor with class name: 'MapWorker.* has constructor arguments in the object store"
)
"""Ray Data stores the constructor arguments of its actor pools and keeps them alive itself; Ray Core warns of that with
severity E, which it copies to standard error. RAY_BACKEND_LOG_LEVEL would also empty Ray's log files, and print that
it is set."""

_filter: subprocess.Popen[bytes] | None = None


def filter_native_stderr() -> None:
    """Send what C++ code writes to standard error through `grep`, which drops KNOWN_NOISE; Python's output bypasses it.

    A separate process still prints the last message of a process that aborts.
    """
    global _filter  # noqa: PLW0603
    if _filter is not None or sys.stderr is None or sys.stderr is not sys.__stderr__:
        return
    terminal = os.dup(2)
    try:
        command = ["grep", "-av", "--line-buffered", "-E", KNOWN_NOISE]
        _filter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, start_new_session=True)
    except OSError:  # no grep: the message is shown
        os.close(terminal)
        return
    assert _filter.stdin is not None
    os.dup2(_filter.stdin.fileno(), 2)
    _filter.stdin.close()
    sys.stderr = open(terminal, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
