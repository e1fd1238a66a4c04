"""Requests to stop: a run saves first, whether SIGTERM reaches its driver or a worker, or a user presses Ctrl-C.

A preempted machine, a scheduler and `ray job stop` send SIGTERM. The driver turns it into a file in the run's folder,
which every worker, on whatever node, notices within half a second. A worker that gets the signal itself agrees with the
other ranks at the next step.
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
"""`ray job stop` sends SIGKILL three seconds after SIGTERM; the run must have saved by then."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_process_stops = threading.Event()


class RunStoppedError(SystemExit):
    """The run was asked to stop and has saved. The exit code is that of a process ended by the signal."""


def request_stop() -> None:
    """Ask every run of this process to save and stop."""
    _process_stops.set()


def request_stop_on_sigterm() -> None:
    """Make SIGTERM a stop request for the runs of this process. Call it in the main thread."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: request_stop())


class StopRequest:
    """Whether a run is asked to stop: all of it, by a file in its folder, or this process alone.

    Attributes:
        signal: number of the signal that the driver received inside `on_signals`; None so far.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / STOP_FILE
        self.signal: int | None = None
        self._next_poll = 0.0
        self._is_set = False

    def is_set(self) -> bool:
        """Whether the run or this process is asked to stop; reads the run's folder every POLL_SECONDS."""
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._is_set = self.is_set_for_run()
        return self._is_set or _process_stops.is_set()

    def is_set_for_run(self) -> bool:
        """Whether the run as a whole is asked to stop; False if its folder cannot be read."""
        try:
            return self.file.exists()
        except OSError:
            return False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn SIGTERM and Ctrl-C into the file while a driver waits for its workers; remove the file at the end.

        A second signal ends the driver at once. Outside the main thread signals stay as they are.
        """
        self.file.unlink(missing_ok=True)

        def handle(number: int, _frame: Any) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            self.signal = number
            try:
                self.file.touch()
            except OSError as error:
                raise KeyboardInterrupt from error  # a full disk, perhaps: then the run cannot be saved either

        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, handle) for number in SIGNALS} if is_main else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)
