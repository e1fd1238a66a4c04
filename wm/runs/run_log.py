"""A run's log: rows in log.jsonl and curves for TensorBoard. Disk trouble never ends a run."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.runtime.durable_files import replace_file
from wm.runs.problem_report import report_once
from wm.runs.run_files import RunFiles

if TYPE_CHECKING:
    from wm.runs.tensorboard import Curves

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
PERMANENT_KINDS = ("rollback", "problem")
"""Kinds of rows that stay when a run resumes from or rolls back to a checkpoint: they record what happened to it."""
MAX_PENDING_ROWS = 10_000
"""Rows kept in memory while the file cannot be written: half a day at a row every five seconds."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of the log of a run on a disk, without a line that a kill cut off."""
    return parse_log("\n".join(_lines(folder / LOG_FILE)))


def log_rows(files: RunFiles) -> list[dict[str, Any]]:
    """Rows of the log of a run, wherever it is; none if there is no log.

    Raises:
        OSError: it cannot be read at the moment.
    """
    try:
        return parse_log(files.read(LOG_FILE).decode(errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def parse_log(content: str) -> list[dict[str, Any]]:
    """Rows of a log, without a line that a kill cut off."""
    return [row for row in map(parse_row, content.splitlines()) if row is not None]


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

    def __init__(self, folder: Path, resumed_at: int, evaluated_at: int | None = None) -> None:
        """
        Args:
            resumed_at: targets seen by the checkpoint that the run resumes from; 0 for a new run.
            evaluated_at: targets seen by the last evaluation that the checkpoint contains; `resumed_at` by default.
        """
        self._path = folder / LOG_FILE
        self._stays = functools.partial(_stays, resumed_at, resumed_at if evaluated_at is None else evaluated_at)
        self._is_truncated = False
        self._latest = resumed_at
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        with contextlib.suppress(OSError):
            self._counts.update(row["kind"] for row in read_log(folder) if self._stays(row))
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING_ROWS)
        self._num_dropped = 0
        self._is_failing = False
        self._reported: set[str] = set()
        self._curves = _open_curves(folder, resumed_at + 1 if resumed_at or self._counts else None)
        self._write_pending()

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; floats of train and eval rows also go to TensorBoard, under `train/` or `eval_K/`."""
        with self._lock:
            self._latest = row.get("targets_seen", self._latest)
            self._counts[row["kind"]] += 1
            was_failing = self._is_failing
            self._append(row)
            if was_failing and not self._is_failing:
                loss = f"{self._num_dropped:,} rows were lost" if self._num_dropped else "no row was lost"
                self._num_dropped = 0
                self._append({"kind": "problem", "message": f"{LOG_FILE} could not be written for a while; {loss}"})
            if row["kind"] in ("train", "eval") and self._curves is not None:
                group = f"eval_{row['context']}" if row["kind"] == "eval" else "train"
                self._curves.write(group, row, self._latest)

    def count(self, kind: str) -> int:
        """Rows of a kind in the log, including those of earlier attempts."""
        return self._counts[kind]

    def close(self) -> None:
        """Try once more to write pending rows, then close."""
        with self._lock:
            self._write_pending()
            if self._curves is not None:
                self._curves.close()

    def _append(self, row: dict[str, Any]) -> None:
        """Append a row with its targets seen, and with the time if it is permanent."""
        row = {"kind": row["kind"], "targets_seen": self._latest} | row
        if row["kind"] in PERMANENT_KINDS:
            row["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._num_dropped += len(self._pending) == self._pending.maxlen
        self._pending.append((json.dumps(row) + "\n").encode())
        self._write_pending()

    def _write_pending(self) -> None:
        """Write the rows in memory. Disk errors are reported, not raised."""
        try:
            if not self._is_truncated:
                self._truncate()
                self._is_truncated = True
            with self._path.open("a+b", buffering=0) as file:  # for each row: it may be deleted meanwhile
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # half a row, from a kill or a full disk
                        file.write(b"\n")
                while self._pending:
                    if file.write(self._pending[0]) != len(self._pending[0]):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._pending.popleft()
            self._is_failing = False
        except OSError as error:
            self._is_failing = True
            report_once(f"{LOG_FILE} cannot be written", error, self._reported)

    def _truncate(self) -> None:
        """Remove rows after the checkpoint and damaged lines."""
        lines = _lines(self._path)
        kept = [line for line in lines if (row := parse_row(line)) is not None and self._stays(row)]
        if kept != lines:
            content = "".join(line + "\n" for line in kept)
            replace_file(self._path, content.encode(), survives_power_loss=False)


def _open_curves(folder: Path, purge_from: int | None) -> Curves | None:
    """Curves for TensorBoard; None, with a line on stderr, where tensorboardX is not installed."""
    try:
        from wm.runs.tensorboard import Curves
    except ModuleNotFoundError as error:
        report_once("no curves for TensorBoard", error, set())
        return None
    return Curves(folder / TENSORBOARD_FOLDER, purge_from)


def _stays(resumed_at: int, evaluated_at: int, row: dict[str, Any]) -> bool:
    """Whether a row stays when a run resumes; not a final evaluation that was not followed by its checkpoint."""
    limit = evaluated_at if row["kind"] == "eval" else resumed_at
    return row["kind"] in PERMANENT_KINDS or row.get("targets_seen", 0) <= limit


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
