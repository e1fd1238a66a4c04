"""The command that the watch starts, in a process group of its own, and its end.

A command must not outlive its watch: the next watch of the job would find it in the way. Linux sends a process SIGTERM
when its parent has died (PR_SET_PDEATHSIG), also after SIGKILL to the parent; the command then saves, and the next
watch waits for its end (`wait_for_orphan`).

    python -m cluster.watch.command PARENT_PID ARGUMENTS...     becomes `wm ARGUMENTS...`
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from datasets.runtime.process.command import WORKS_FOR

PR_SET_PDEATHSIG = 1
POLL_S = 0.2


class Command:
    """A started `wm` command. Its output is that of this process."""

    def __init__(self, arguments: Sequence[str], works_for: str) -> None:
        """Start it. Called in the main thread, with whose death the kernel ends the command.

        Args:
            arguments: of `wm`.
            works_for: location by which `datasets.runtime.process.stacks` finds its processes.
        """
        words = [sys.executable, "-m", "cluster.watch.command", str(os.getpid()), *arguments]
        environment = os.environ | {WORKS_FOR: works_for, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(words, process_group=0, env=environment)

    @property
    def pid(self) -> int:
        """Process id, which is that of the process group too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative if a signal ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to save and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all processes of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def identity(self) -> dict[str, Any]:
        """What the next watch needs to find this process if this watch is killed."""
        return {"pid": self.pid, "started": _start_of(self.pid), "boot": _boot_id()}


def wait_for_orphan(identity: dict[str, Any] | None, timeout_s: float) -> str | None:
    """Wait until the command of a killed watch has ended; kill it after a while.

    Args:
        identity: of `Command.identity`; None if there was no command.
    Returns:
        What happened, for the log; None if there was nothing to wait for.
    """
    if identity is None or identity.get("boot") != _boot_id() or not _is_running(identity):
        return None
    deadline = time.monotonic() + timeout_s
    while _is_running(identity):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(identity["pid"], signal.SIGKILL)
            return f"the command of an earlier watch (process {identity['pid']}) did not end and was killed"
        time.sleep(POLL_S)
    return f"the command of an earlier watch (process {identity['pid']}) has ended"


def _is_running(identity: dict[str, Any]) -> bool:
    start = _start_of(identity["pid"])
    return start is not None and start == identity["started"]


def _start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since the machine's start; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot_id() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return None


def main() -> None:
    """Tie this process to its parent, and become the command."""
    parent = int(sys.argv[1])
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the locks of runs and corpora must do
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)  # the parent died before
    os.execv(sys.executable, [sys.executable, "-m", "wm.cli", *sys.argv[2:]])


if __name__ == "__main__":
    main()
