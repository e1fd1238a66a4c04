"""A run that is told to stop saves first: by SIGTERM to its driver or a worker, by Ctrl-C, or by a file in its folder.

A preempted machine, a scheduler and `ray job stop` send SIGTERM. The driver turns it into the file, and every worker,
wherever it is, sees that within half a second; a worker that gets the signal itself tells the others.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STOP_FILE = "stop"
POLL_SECONDS = 0.5
"""`ray job stop` kills three seconds after it has asked, and the run must have saved by then."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_told = threading.Event()


class RunStoppedError(SystemExit):
    """The run was told to stop, and has saved; the exit code is that of a process which the signal ends."""


def tell_this_process() -> None:
    """Let every run of this process save and stop."""
    _told.set()


def was_told() -> bool:
    """Whether this process was told to stop, and not the run as a whole."""
    return _told.is_set()


def is_told(out: Path) -> bool:
    """Whether the run of a folder is told to stop; a folder that cannot be looked into says no."""
    try:
        return (out / STOP_FILE).exists()
    except OSError:
        return False


class Interruption:
    """Whether a run, or this process of it, is told to stop; looks into the run's folder now and then."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._next_look = 0.0
        self._is_there = False

    def __bool__(self) -> bool:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + POLL_SECONDS
            self._is_there = is_told(self._out)
        return self._is_there or was_told()


def tell_this_process_on_sigterm() -> None:
    """Have SIGTERM stop the runs of this process, once they have saved. For its main thread."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: tell_this_process())


class Told:
    """What told a driver to stop: a signal's number, or None so far."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def stopping_on_signals(out: Path) -> Iterator[Told]:
    """While a driver waits for its workers, SIGTERM and Ctrl-C become the file that stops them; it goes at the end.

    A second signal ends the driver at once. In a thread that is not the main one signals stay as they are.
    """
    stop, told = out / STOP_FILE, Told()
    stop.unlink(missing_ok=True)

    def on_signal(number: int, _frame: Any) -> None:
        if told.signal is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        told.signal = number
        try:
            stop.touch()
        except OSError as error:
            raise KeyboardInterrupt from error  # a full disk, perhaps: then the run cannot be saved either

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, on_signal) for number in SIGNALS} if is_main else {}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            stop.unlink(missing_ok=True)
