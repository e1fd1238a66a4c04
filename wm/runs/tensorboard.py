"""A run's curves for TensorBoard: event files, written record by record in the thread that calls.

tensorboardX's own writer hands events to a thread over a queue of ten; where the disk is full the thread dies, and
the eleventh scalar waits for ever. Its file names also hold the host's name. So only its records are used here.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any, BinaryIO

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore [missing-module-attribute]
from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore [missing-module-attribute]
from tensorboardX.record_writer import masked_crc32c

from wm.runs.append_file import RecordFile

FILE_VERSION = "brain.Event:2"
"""First event of every file that TensorBoard reads."""


class Board:
    """Scalars over targets seen, in a folder of event files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._forget_from: int | None = None
        self._file = RecordFile("tensorboard", self._open)

    def write(self, group: str, row: dict[str, Any], targets_seen: int) -> None:
        """The floats of a row, as `group/name`."""
        values = [Summary.Value(tag=f"{group}/{k}", simple_value=v) for k, v in row.items() if isinstance(v, float)]
        if values:
            event = Event(wall_time=time.time(), step=targets_seen, summary=Summary(value=values))
            self._file.write(_record(event))

    def forget_from(self, targets_seen: int) -> None:
        """Hide what older files say of these targets and later ones."""
        self._forget_from = targets_seen
        self._file.reopen()

    def close(self) -> None:
        """Write out what waits."""
        self._file.close()

    def _open(self) -> tuple[Path, BinaryIO]:
        """A new file: in the old one half a record may stand, behind which nobody reads on."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"events.out.tfevents.{time.time():017.6f}"
        file = path.open("xb", buffering=0)
        header = _record(Event(wall_time=time.time(), file_version=FILE_VERSION))
        if self._forget_from is not None:
            start = SessionLog(status=SessionLog.START)
            header += _record(Event(wall_time=time.time(), step=self._forget_from, session_log=start))
        try:
            if file.write(header) != len(header):
                raise OSError(f"{path.name}: the disk took a part of its first records")
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        self._forget_from = None
        return path, file


def _record(event: Event) -> bytes:
    """An event as TFRecord frames it: length, its checksum, content, its checksum."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return length + next(checksums) + content + next(checksums)
