"""Requests to stop: a run saves first, whether SIGTERM reaches its driver or a worker, or a user presses Ctrl-C.

A preempted machine, a scheduler and `ray job stop` send SIGTERM. The driver writes it to a file of the run, which rank
0 reads twice a second; the other ranks learn it from rank 0 at the next synchronization. A worker that gets the signal
itself tells the others in the same way.

The file exists before the workers start, and its content changes in place. A client of a network file system may not
see for half a minute that a file was created, but it sees new content each time it opens the file (close-to-open
consistency).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets.runtime.errors import UserError
from wm.runs.run_files import RunFiles

STOP_FILE = "stop"
STOP, RUN = b"stop\n", b"run \n"
"""The file's content; both have one length, so that a full disk can take either."""
POLL_SECONDS = 0.5
"""`ray job stop` sends SIGKILL three seconds after SIGTERM; the run must have saved by then."""
RETRY_SECONDS = 0.5
JOIN_SECONDS = 5.0
REPEATED_SECONDS = 2.0
"""A second SIGTERM within this time is the same request: `ray job stop` signals a watch and its command, and the watch
passes the signal on."""
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
    """Whether a run is asked to stop: all of it, by a file of the run, or this process alone.

    Attributes:
        signal: number of the signal that the driver received inside `on_signals`; None so far.
    """

    def __init__(self, files: RunFiles, also: RunFiles | None = None) -> None:
        """
        Args:
            also: files of something that the run is a part of, such as a sweep, whose stop request stops the run too.
        """
        self._files, self._also = files, also
        self.signal: int | None = None
        self._is_set = False

    def request(self) -> None:
        """Ask the run to save and stop.

        Raises:
            OSError: the request cannot be written.
        """
        self._files.write_in_place(STOP_FILE, STOP)

    def clear(self) -> None:
        """Withdraw the request, also one that a killed driver has left.

        Raises:
            OSError: the request cannot be written.
        """
        self._files.write_in_place(STOP_FILE, RUN)

    def create(self) -> None:
        """Create the file if there is none, so that the workers find it; a request that it holds stays.

        Raises:
            OSError: it cannot be written.
        """
        if not self._files.version(STOP_FILE):
            self.clear()

    def is_set(self) -> bool:
        """Whether this process is asked to stop, or the run as a whole if inside `watched`. Reads no file."""
        return self._is_set or _process_stops.is_set()

    def is_set_for_run(self) -> bool:
        """Whether the run as a whole is asked to stop; False if its files cannot be read, unless it was seen before."""
        if self._is_set:
            return True
        for files in (self._files, self._also):
            with contextlib.suppress(OSError):
                if files is not None and files.read(STOP_FILE) == STOP:
                    return True
        return False

    def is_set_alone(self) -> bool:
        """Whether this run is asked to stop, and not what it is a part of.

        Raises:
            OSError: its files cannot be read.
        """
        return bool(self._files.version(STOP_FILE)) and self._files.read(STOP_FILE) == STOP

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have a thread read the request every POLL_SECONDS, so that slow storage never delays training."""
        is_over = threading.Event()

        def watch() -> None:
            while not self._is_set:
                self._is_set = self.is_set_for_run()
                if is_over.wait(POLL_SECONDS):
                    return

        self._is_set = False
        threading.Thread(target=watch, name="stop-request", daemon=True).start()
        try:
            yield
        finally:
            is_over.set()  # not awaited: a request to the storage may hang

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn SIGTERM and Ctrl-C into a request while a driver waits for its workers; withdraw it at the end.

        A second signal ends the driver at once, unless it is a SIGTERM just after the first. Outside the main thread
        signals stay as they are.

        Raises:
            UserError: nothing can be written to the run.
        """
        try:
            self.clear()
        except OSError as error:
            raise UserError(f"{self._files.path_of(STOP_FILE)} cannot be written ({error})") from error
        is_over = threading.Event()
        writer = threading.Thread(target=self._request_until, args=(is_over,), name="stop-request", daemon=True)
        first_at = 0.0

        def handle(number: int, _frame: Any) -> None:
            nonlocal first_at
            if self.signal is not None:
                if number == signal.SIGTERM and time.monotonic() - first_at < REPEATED_SECONDS:
                    return
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            self.signal, first_at = number, time.monotonic()
            writer.start()  # a signal handler must not wait for storage

        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, handle) for number in SIGNALS} if is_main else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            is_over.set()
            if self.signal is not None:
                writer.join(JOIN_SECONDS)
            with contextlib.suppress(OSError):
                self.clear()

    def _request_until(self, is_over: threading.Event) -> None:
        """Write the request; try again until that succeeds."""
        is_reported = False
        while True:
            try:
                return self.request()
            except OSError as error:
                if not is_reported:
                    is_reported = True
                    path = self._files.path_of(STOP_FILE)
                    message = f"{path} cannot be written ({error}); trying again; a second signal ends without saving"
                    print(message, file=sys.stderr, flush=True)
            if is_over.wait(RETRY_SECONDS):
                return None
