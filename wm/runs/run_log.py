"""A run's log: rows in log.jsonl and curves for TensorBoard. Disk trouble never ends a run."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from wm.runs.append_file import AppendFile
from wm.runs.tensorboard import Curves

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
PERMANENT_KINDS = ("rollback", "problem")
"""Kinds of rows that stay when a run resumes from or rolls back to a checkpoint: they record what happened to it."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's log, without a line that a kill cut off."""
    return [row for row in map(parse_row, _lines(folder / LOG_FILE)) if row is not None]


def parse_row(line: str | bytes) -> dict[str, Any] | None:
    """A row from a line of the log; None if the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "kind" in row else None


class RunLog:
    """Appends rows to log.jsonl and TensorBoard, from any thread.

    Rows that cannot be written (a full disk, a folder that is away for a while) are kept in memory, reported once on
    stderr, and written once that works again. On resume the rows after the checkpoint are removed.
    """

    def __init__(self, folder: Path, resumed_at: int) -> None:
        """
        Args:
            resumed_at: targets seen by the checkpoint that the run resumes from; 0 for a new run.
        """
        self._path = folder / LOG_FILE
        self._resumed_at = resumed_at
        self._is_truncated = False
        self._latest = resumed_at
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        with contextlib.suppress(OSError):
            self._counts.update(row["kind"] for row in read_log(folder) if _stays(row, resumed_at))
        self._file = AppendFile(LOG_FILE, self._open)
        self._curves = Curves(folder / TENSORBOARD_FOLDER, resumed_at + 1 if resumed_at or self._counts else None)
        self._file.write()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; floats of train and eval rows also go to TensorBoard, under `train/` or `eval_K/`."""
        with self._lock:
            self._latest = row.get("targets_seen", self._latest)
            self._counts[row["kind"]] += 1
            self._append(row)
            if row["kind"] in ("train", "eval"):
                group = f"eval_{row['context']}" if row["kind"] == "eval" else "train"
                self._curves.write(group, row, self._latest)

    def count(self, kind: str) -> int:
        """Rows of a kind in the log, including those of earlier attempts."""
        return self._counts[kind]

    def close(self) -> None:
        """Try once more to write pending rows, then close."""
        with self._lock:
            self._file.close()
            self._curves.close()

    def _append(self, row: dict[str, Any]) -> None:
        was_failing = self._file.is_failing
        self._file.write(self._line(row))
        if was_failing and not self._file.is_failing:
            dropped = self._file.take_num_dropped()
            loss = f"{dropped:,} rows were lost" if dropped else "no row was lost"
            message = f"{LOG_FILE} could not be written for a while; {loss}"
            self._file.write(self._line({"kind": "problem", "message": message}))

    def _line(self, row: dict[str, Any]) -> bytes:
        """A row with its targets seen, and with the time if it is permanent."""
        row = {"kind": row["kind"], "targets_seen": self._latest} | row
        if row["kind"] in PERMANENT_KINDS:
            row["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return (json.dumps(row) + "\n").encode()

    def _open(self) -> tuple[Path, BinaryIO]:
        """The log, positioned at the start of a new line, without the rows after the checkpoint."""
        if not self._is_truncated:
            self._truncate()
            self._is_truncated = True
        file = self._path.open("ab", buffering=0)
        try:
            if self._path.is_file() and file.tell() and not _ends_with_newline(self._path):
                file.write(b"\n")
        except OSError:
            file.close()
            raise
        return self._path, file

    def _truncate(self) -> None:
        """Remove rows after the checkpoint and damaged lines."""
        lines = _lines(self._path)
        kept = [line for line in lines if (row := parse_row(line)) is not None and _stays(row, self._resumed_at)]
        if kept != lines:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self._path)


def _stays(row: dict[str, Any], resumed_at: int) -> bool:
    return row["kind"] in PERMANENT_KINDS or row.get("targets_seen", 0) <= resumed_at


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
