"""A run's curves for TensorBoard, by tensorboardX's RecordWriter.

tensorboardX's SummaryWriter is not used: a thread writes its events from a queue of ten; on a full disk the thread dies
and the eleventh event blocks for ever. Its file names also contain the host's name. RecordWriter writes synchronously
to a path of our choice.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore [missing-module-attribute]
from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore [missing-module-attribute]
from tensorboardX.record_writer import RecordWriter

from wm.runs.problem_report import report_once

FILE_VERSION = "brain.Event:2"
"""First event of every file that TensorBoard reads."""


class _EventFile(RecordWriter):
    """RecordWriter without the fsync in its flush, which could wait for a checkpoint that is being written."""

    def flush(self) -> None:
        self._writer.flush()  # pyrefly: ignore [missing-attribute]


class Curves:
    """Scalars over targets seen, in a folder of event files. A failure loses points, never blocks, never raises."""

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        """
        Args:
            purge_from: targets seen; hides points of earlier files from here on, after a resume from a checkpoint.
        """
        self._folder, self._purge_from = folder, purge_from
        self._file: _EventFile | None = None
        self._reported: set[str] = set()

    def write(self, group: str, row: dict[str, Any], targets_seen: int) -> None:
        """Write the floats of a row, as `group/name`."""
        values = [Summary.Value(tag=f"{group}/{k}", simple_value=v) for k, v in row.items() if isinstance(v, float)]
        if not values:
            return
        try:
            if self._file is None:
                self._file = self._opened()
            self._write(self._file, step=targets_seen, summary=Summary(value=values))
        except (OSError, ValueError) as error:
            self.close()  # readers stop at half a record, so the next event begins a new file
            report_once("tensorboard cannot be written", error, self._reported)

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):
                self._file.close()
        self._file = None

    def _opened(self) -> _EventFile:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"events.out.tfevents.{time.time():017.6f}"
        file = _EventFile(str(path))
        try:
            self._write(file, file_version=FILE_VERSION)
            if self._purge_from is not None:
                self._write(file, step=self._purge_from, session_log=SessionLog(status=SessionLog.START))
        except OSError:
            with contextlib.suppress(OSError):
                file.close()
            path.unlink(missing_ok=True)
            raise
        self._purge_from = None
        return file

    @staticmethod
    def _write(file: _EventFile, **fields: Any) -> None:
        file.write(Event(wall_time=time.time(), **fields).SerializeToString())
        file.flush()
