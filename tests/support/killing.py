"""What harnesses that kill our commands share: starting one, its tree of processes, and who is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets.runtime.hardware import process_tree


def start_printing_to(printed: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    """A command in a session of its own; what it prints is in a file."""
    with printed.open("wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def descendants(root: int) -> dict[int, str]:
    """Process id -> command line of all below a process."""
    found = {}
    for pid in process_tree(root)[1:]:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """A signal to processes, some of which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def still_alive(pids: Iterable[int], seconds: float) -> list[int]:
    """Those of some processes that are still there after a while; returns earlier if none is."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
