"""A program that goes on in the background: detached from its terminal, one instance in a folder, with a log."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MAX_LOG_BYTES = 1_000_000
REPLACE_TIMEOUT_S = 10.0


def detach() -> None:
    """Go on in a process of its own session, without standard streams; the calling process exits with 0."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


class Instance:
    """The only instance of a program: it holds the lock of a file with its process id."""

    def __init__(self, lock: Path) -> None:
        """End an earlier instance, whose arguments may be out of date.

        Raises:
            SystemExit: it does not end.
        """
        self.earlier_note: float | None = None
        """What the earlier instance noted last, if it was still running."""
        self._file = lock.open("a+")
        deadline = time.monotonic() + REPLACE_TIMEOUT_S
        while not self._lock():
            if time.monotonic() > deadline:
                sys.exit(f"{lock}: the instance that runs does not end; end it by the process id in this file")
            self._end_earlier()
            time.sleep(0.1)
        self.note(None)

    def note(self, number: float | None) -> None:
        """Write the process id, and a number for an instance that takes over."""
        self._file.truncate(0)
        self._file.write(str(os.getpid()) if number is None else f"{os.getpid()} {number}")
        self._file.flush()

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _end_earlier(self) -> None:
        self._file.seek(0)
        written = self._file.read().split()
        with suppress(ValueError, IndexError, ProcessLookupError):
            self.earlier_note = float(written[1]) if len(written) > 1 else None
            os.kill(int(written[0]), signal.SIGTERM)


class Log:
    """Lines with the time in UTC, in a file that is replaced before it gets large, and on standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, line: str) -> None:
        """Write one line. A full disk must not end a watchdog."""
        text = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}\n"
        with suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()
        with suppress(OSError):
            if self._path.exists() and self._path.stat().st_size > MAX_LOG_BYTES:
                self._path.replace(self._path.with_suffix(".log.1"))
            with self._path.open("a") as file:
                file.write(text)


def add_background_options(parser: argparse.ArgumentParser) -> None:
    """Options of each program of this package."""
    parser.add_argument("--folder", type=Path, default=Path("~/.wm/node"), help="of the log and the lock")
    parser.add_argument("--foreground", action="store_true", help="do not go to the background")


def begin(name: str, options: argparse.Namespace) -> tuple[Log, Instance]:
    """Go to the background if wished, and become the only instance."""
    folder = options.folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if not options.foreground:
        detach()
    return Log(folder / f"{name}.log"), Instance(folder / f"{name}.lock")
