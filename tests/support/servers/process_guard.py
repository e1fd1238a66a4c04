"""Ends the processes of a test's cluster when the test has ended, however it ended: also after SIGKILL.

    python process_guard.py NAME=VALUE

Waits for the end of its standard input, which the operating system closes with the test's process; then kills all
processes whose environment has a variable NAME that begins with VALUE.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXEC_S = 0.05
"""Pause between two looks; while a program is loaded (`execve`), Linux shows an empty environment."""


def marked(mark: str) -> list[int]:
    """Ids of the living processes that have inherited a mark, `NAME=VALUE`."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_dead = ") Z " in environ.with_name("stat").read_text()
            if not is_dead and any(one.startswith(mark.encode()) for one in environ.read_bytes().split(b"\0")):
                found.append(int(environ.parent.name))
        except OSError:  # another user's process, or one that has just ended
            continue
    return found


def kill_marked(mark: str) -> None:
    """Kill them until two looks find none: a process may start another one, whose environment is empty for a moment."""
    num_looks = 0
    while num_looks < 2:
        pids = marked(mark)
        num_looks = 0 if pids else num_looks + 1
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(EXEC_S)


@contextmanager
def guarded(mark: str) -> Iterator[None]:
    """The processes that inherit a mark end with this block, or with this process."""
    command = [sys.executable, "-S", __file__, mark]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
