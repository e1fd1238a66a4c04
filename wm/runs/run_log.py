"""A run's log: rows in log.jsonl and curves for TensorBoard. No trouble with the disk ends a run."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from wm.runs.tensorboard import Board
from wm.runs.append_file import RecordFile

LOG_FILE = "log.jsonl"
BOARD = "tensorboard"
LASTING = ("rollback", "problem", "attempt")
"""Kinds of rows that stay when a run goes back to a checkpoint: they tell what happened to it."""


def read_log(out: Path) -> list[dict[str, Any]]:
    """Rows of a run's log; a line that was cut off by a kill is left out."""
    return [row for row in map(_row_of, _lines(out / LOG_FILE)) if row is not None]


class RunLog:
    """Appends rows to log.jsonl and TensorBoard; any thread may.

    Rows that cannot be written (a full disk, a folder that is away for a while) are kept in memory, told of once on
    stderr, and written when that works again. On resume what came after the checkpoint is forgotten.
    """

    def __init__(self, out: Path, resumed_at: int) -> None:
        """
        Args:
            resumed_at: targets seen by the checkpoint that the run goes on from; 0 for a new run.
        """
        self._path = out / LOG_FILE
        self._resumed_at = resumed_at
        self._has_forgotten = False
        self._latest = resumed_at
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        with contextlib.suppress(OSError):
            self._counts.update(row["kind"] for row in read_log(out) if _stays(row, resumed_at))
        self._file = RecordFile(LOG_FILE, self._open)
        self._board = Board(out / BOARD)
        if resumed_at or self._counts:
            self._board.forget_from(resumed_at + 1)
        self._file.write()

    def write(self, row: dict[str, Any]) -> None:
        """One row; floats of progress lines and judgements go to TensorBoard, under `train/` or `eval_K/`."""
        with self._lock:
            self._latest = row.get("targets_seen", self._latest)
            self._counts[row["kind"]] += 1
            self._append(_completed(row, self._latest))
            if row["kind"] in ("train", "eval"):
                group = f"eval_{row['context']}" if row["kind"] == "eval" else "train"
                self._board.write(group, row, self._latest)

    def count(self, kind: str) -> int:
        """Rows of a kind that the log holds, those of earlier attempts included."""
        return self._counts[kind]

    def close(self) -> None:
        """Try a last time to write what waits."""
        with self._lock:
            self._file.close()
            self._board.close()

    def _append(self, row: dict[str, Any]) -> None:
        was_failing = self._file.is_failing
        self._file.write(_line_of(row))
        if was_failing and not self._file.is_failing:
            lost = self._file.take_num_lost()
            told = f"{lost:,} rows were lost" if lost else "no row was lost"
            message = f"{LOG_FILE} could not be written for a while; {told}"
            self._file.write(_line_of(_completed({"kind": "problem", "message": message}, self._latest)))

    def _open(self) -> tuple[Path, BinaryIO]:
        """The log at its end, on a line of its own, without the rows that a resumed run forgets."""
        if not self._has_forgotten:
            self._forget()
            self._has_forgotten = True
        file = self._path.open("ab", buffering=0)
        try:
            if self._path.is_file() and file.tell() and not _ends_a_line(self._path):
                file.write(b"\n")
        except OSError:
            file.close()
            raise
        return self._path, file

    def _forget(self) -> None:
        """Leave out what came after the checkpoint, and lines that are no rows; a log without any stays as it is."""
        lines = _lines(self._path)
        rows = [_row_of(line) for line in lines]
        kept = [
            line for line, row in zip(lines, rows, strict=True) if row is not None and _stays(row, self._resumed_at)
        ]
        if kept == lines:
            return
        aside = self._path.with_suffix(".aside")
        aside.write_text("".join(line + "\n" for line in kept))
        aside.replace(self._path)


def _stays(row: dict[str, Any], resumed_at: int) -> bool:
    return row["kind"] in LASTING or row.get("targets_seen", 0) <= resumed_at


def _completed(row: dict[str, Any], targets_seen: int) -> dict[str, Any]:
    """Every row says how far the run was, and one that stays also when."""
    row = {"kind": row["kind"], "targets_seen": targets_seen} | row
    if row["kind"] in LASTING:
        row["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return row


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []


def _line_of(row: dict[str, Any]) -> bytes:
    return (json.dumps(row) + "\n").encode()


def _row_of(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "kind" in row else None


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
