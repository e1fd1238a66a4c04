"""An append-only file that survives disk trouble: a full disk or a missing folder must not stop training."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

MAX_PENDING_RECORDS = 10_000
"""Records kept in memory while the file cannot be written: half a day at a row every five seconds."""


class AppendFile:
    """Appends records. Records that cannot be written are kept in memory and written once that works again."""

    def __init__(self, name: str, open_file: Callable[[], tuple[Path, BinaryIO]]) -> None:
        """
        Args:
            name: of the file in messages.
            open_file: returns the file, unbuffered and positioned for whole records; called again after a failure.
        """
        self._name, self._open = name, open_file
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING_RECORDS)
        self._num_dropped = 0
        self._reported: set[str] = set()
        self.is_failing = False
        """Whether the last record could not be written."""

    def write(self, *records: bytes) -> None:
        """Append records in order. Disk errors are reported, not raised."""
        self._num_dropped += max(0, len(self._pending) + len(records) - MAX_PENDING_RECORDS)
        self._pending.extend(records)
        try:
            self._write_pending()
            self.is_failing = False
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._close_file()
            self.is_failing = True
            report_once(f"{self._name} cannot be written", error, self._reported)

    def take_num_dropped(self) -> int:
        """Records dropped from memory since the last call."""
        dropped, self._num_dropped = self._num_dropped, 0
        return dropped

    def close(self) -> None:
        """Try once more to write pending records, then close."""
        self.write()
        self._close_file()

    def _write_pending(self) -> None:
        if self._file is not None and self._path is not None and not _is_same(self._path, self._file):
            self._close_file()
        if self._file is None:
            self._path, self._file = self._open()
        while self._pending:
            record = self._pending[0]
            if self._file.write(record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._pending.popleft()

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


def report_once(problem: str, error: Exception, reported: set[str]) -> None:
    """Report on stderr, once for each reason, that something failed without stopping the run."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if reason not in reported:
        reported.add(reason)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may fail as well
            print(f"{problem} ({reason}); training continues", file=sys.stderr, flush=True)


def _is_same(path: Path, file: BinaryIO) -> bool:
    """Whether a path still names an open file: a deleted file could be written to for ever, for no reader."""
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
