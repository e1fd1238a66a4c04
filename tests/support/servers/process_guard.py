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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    """Kill them until there are none: a process may start another one meanwhile."""
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


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
