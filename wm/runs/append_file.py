"""A file that only grows, and whose troubles (a full disk, a folder that is gone) are no reason to stop training."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

KEPT_RECORDS = 10_000
"""Held in memory while the file cannot be written: at a row each five seconds, about half a day."""


class RecordFile:
    """Appends records. What cannot be written is kept, and written as soon as that works again."""

    def __init__(self, name: str, open_file: Callable[[], tuple[Path, BinaryIO]]) -> None:
        """
        Args:
            name: of the file in messages.
            open_file: gives the file, unbuffered and ready to take whole records; called again after a failure.
        """
        self._name, self._open = name, open_file
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=KEPT_RECORDS)
        self._num_lost = 0
        self._reported: set[str] = set()
        self.is_failing = False
        """Whether the last record could not be written."""

    def write(self, *records: bytes) -> None:
        """Append some records, in order. Raises nothing on account of the disk."""
        self._num_lost += max(0, len(self._waiting) + len(records) - KEPT_RECORDS)
        self._waiting.extend(records)
        try:
            self._write_waiting()
            self.is_failing = False
        except (OSError, ValueError) as error:  # ValueError: the handle was closed
            self.reopen()
            self.is_failing = True
            self.report(error)

    def take_num_lost(self) -> int:
        """Records that had no room in memory, since the last call."""
        lost, self._num_lost = self._num_lost, 0
        return lost

    def reopen(self) -> None:
        """Have the next record open the file anew."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def report(self, error: Exception) -> None:
        """Say on stderr, once for each kind of trouble, that something could not be written."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if reason in self._reported:
            return
        self._reported.add(reason)
        say_on_stderr(f"{self._name} cannot be written ({reason}); training goes on")

    def close(self) -> None:
        """Try a last time to write what waits, and close."""
        self.write()
        self.reopen()

    def _write_waiting(self) -> None:
        if self._file is not None and self._path is not None and not _is_same(self._path, self._file):
            self.reopen()
        if self._file is None:
            self._path, self._file = self._open()
        while self._waiting:
            record = self._waiting[0]
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.popleft()


def _is_same(path: Path, file: BinaryIO) -> bool:
    """Whether a file's name still leads to it; into a file without a name one can write for ever, for nobody."""
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))


def say_on_stderr(message: str) -> None:
    """Tell a person, unless stderr is as dead as the file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(message, file=sys.stderr, flush=True)
