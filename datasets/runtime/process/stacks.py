"""Python stacks of running processes on demand: a process registers itself, another one asks it by SIGUSR1.

The handler is faulthandler's, written in C: it answers while a thread holds the GIL or waits within a collective
operation, needs no privileges (py-spy needs those of ptrace), and the process goes on.

A registered process has two files in a folder of its user and machine: PID.json, which says what it works for, and
PID.txt, to which the handler appends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

ANSWER_S = 3.0
"""How long a process may take to write its stacks."""
POLL_S = 0.05
_files: dict[int, IO[str]] = {}
"""Process id -> file of the handler, which must stay open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessStacks:
    """What one process does."""

    host: str
    pid: int
    works_for: str
    state: str
    """Of the process when it was asked, as psutil names it: `stopped` is a process that got SIGSTOP."""
    text: str
    """The stacks of its threads as faulthandler writes them; empty if it did not answer."""


@contextmanager
def dumping_stacks(works_for: str) -> Iterator[None]:
    """Answer SIGUSR1 with the stacks of this process' threads while the block runs; any thread may call it.

    Args:
        works_for: the location of the run, sweep or corpus, by which `collect_stacks` finds this process.
    """
    entry = _folder() / f"{os.getpid()}.json"
    try:
        _register()
        entry.write_text(json.dumps({"works_for": works_for, "started": psutil.Process().create_time()}))
    except OSError:  # a full disk: the work matters more
        pass
    try:
        yield
    finally:  # the handler stays: a signal that is on its way must not end the process
        with contextlib.suppress(OSError):
            entry.unlink(missing_ok=True)


def collect_stacks(works_for: str) -> list[ProcessStacks]:
    """Ask all processes on this machine that work for something; a stopped one is continued, so that it can answer.

    Args:
        works_for: their location, or that of a folder above it.
    """
    found = []
    for pid, location in registered(works_for):
        with contextlib.suppress(psutil.Error, OSError):
            state = psutil.Process(pid).status()
            found.append(
                ProcessStacks(
                    host=socket.gethostname(), pid=pid, works_for=location, state=state, text=_ask(pid, state)
                )
            )
    return found


def registered(works_for: str) -> list[tuple[int, str]]:
    """Process ids, and what each works for, of the registered processes on this machine."""
    found = []
    for entry in sorted(_folder().glob("*.json")):
        with contextlib.suppress(psutil.Error, OSError, ValueError, KeyError):
            facts, pid = json.loads(entry.read_text()), int(entry.stem)
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                continue
            is_same = abs(psutil.Process(pid).create_time() - facts["started"]) < 1.0  # and no later process of that id
            location = facts["works_for"]
            if is_same and (location == works_for or location.startswith(f"{works_for.rstrip('/')}/")):
                found.append((pid, location))
    return found


def kill_registered(works_for: str) -> list[int]:
    """Send SIGKILL to all registered processes on this machine that work for something; returns their ids."""
    killed = []
    for pid, _ in registered(works_for):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def _register() -> None:
    """Install the handler, once in a process."""
    if os.getpid() in _files:
        return
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    _files[os.getpid()] = (folder / f"{os.getpid()}.txt").open("w")
    faulthandler.register(signal.SIGUSR1, file=_files[os.getpid()], all_threads=True)


def _ask(pid: int, state: str) -> str:
    written = _folder() / f"{pid}.txt"
    before = written.stat().st_size
    os.kill(pid, signal.SIGUSR1)
    if state == psutil.STATUS_STOPPED:
        os.kill(pid, signal.SIGCONT)
    size, deadline = before, time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        size, previous = written.stat().st_size, size
        if size == previous > before:
            break
    return written.read_text(errors="replace")[before:]


def _folder() -> Path:
    return Path(tempfile.gettempdir(), f"wm-stacks-{os.getuid()}")
