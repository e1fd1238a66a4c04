"""Helpers of tests that kill commands: start one, list its process tree, and find processes that are left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from datasets.runtime.hardware import process_tree


def start_printing_to(printed: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a new session; its output goes to a file."""
    with printed.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def descendants(root: int) -> dict[int, str]:
    """Process id -> command line of all descendants of a process."""
    found = {}
    for pid in process_tree(root)[1:]:
        with contextlib.suppress(psutil.Error):
            found[pid] = " ".join(psutil.Process(pid).cmdline())
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes, some of which may have exited."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def still_alive(pids: Iterable[int], seconds: float) -> list[int]:
    """Processes that still run after a while; returns early if there are none."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
