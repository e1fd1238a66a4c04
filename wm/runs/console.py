"""What a person sees while a run trains: the rows of its log as lines, wherever the workers are."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wm.config.run_config import RunConfig
from wm.runs.run_folder import LOG_FILE

POLL_SECONDS = 0.5
MAX_LINE_CHARS = 119
"""Of a progress line."""


def line_of(row: dict[str, Any], config: RunConfig) -> str:
    """One row of log.jsonl as a line of the terminal."""
    make = LINES.get(row["kind"])
    return make(row, config) if make is not None else f"{row['kind']:>8}"


def _start_line(row: dict[str, Any], _config: RunConfig) -> str:
    at = f", resumed at {row['targets_seen']:,} targets" if row["targets_seen"] else ""
    compiling = "; the first update compiles the network, up to a minute" if row.get("compiles") else ""
    return (
        f"{row['num_parameters'] / 1e6:.1f} M parameters on {row['workers']} x {row['device']}, "
        f"{row['train_games']:,} games ({row['train_frames']:,} frames) to train on, "
        f"{row['judged_games']:,} to be judged on{at}{compiling}"
    )


def _train_line(row: dict[str, Any], config: RunConfig) -> str:
    """The figures that matter, then as many of the others as there is room for."""
    total = config.optimizer.total_targets
    left = (total - row["targets_seen"]) / max(1.0, row["targets_per_s"])
    if config.max_seconds is not None:
        left = min(left, config.max_seconds - row["seconds"])
    line = (
        f"{row['targets_seen'] / 1e6:8.2f} of {total / 1e6:.2f} M targets  {row['targets_per_s']:9,.0f}/s  "
        f"loss {row['loss']:6.3f}  change_acc {row['change_acc']:.3f}  {_duration(max(0.0, left))} left"
    )
    shown = []
    if row.get("wait_share") is not None:
        shown.append(f"wait {row['wait_share']:.0%}")
    memory = row.get("device_peak_gb", row.get("peak_gb"))
    if memory is not None:
        shown.append(f"{memory:.1f} GB")
    if row.get("data") is not None:
        shown.append(str(row["data"]))
    for text in shown:
        if len(line) + 2 + len(text) <= MAX_LINE_CHARS:
            line += f"  {text}"
    return line


def _eval_line(row: dict[str, Any], _config: RunConfig) -> str:
    values = "  ".join(f"{name} {_text(row[name])}" for name in ("change_acc", "action_acc", "pos_mae", "val_loss"))
    return f"{'judged':>8} at K = {row['context']:<4} {values}"


def _checkpoint_line(row: dict[str, Any], _config: RunConfig) -> str:
    size = f" ({row['bytes'] / 1e6:,.0f} MB)" if row.get("bytes") else ""
    return f"{'saved':>8} at {row['targets_seen']:,} targets{size}, {1e3 * row['seconds_held']:,.0f} ms held up"


def _rollback_line(row: dict[str, Any], _config: RunConfig) -> str:
    return (
        f"{'back':>8} from {row['targets_seen']:,} to {row['to_targets']:,} targets with {row['rate_factor']:g} of the "
        f"learning rate: {row['reason']}"
    )


def _problem_line(row: dict[str, Any], _config: RunConfig) -> str:
    return f"{'problem':>8} {' '.join(str(row['message']).split())}"


def _attempt_line(row: dict[str, Any], _config: RunConfig) -> str:
    why = f": {row['why']}" if row.get("why") else ""
    return f"{'attempt':>8} {row['number']}, from {row['resumed_at']:,} targets on{why}"


LINES: dict[str, Callable[[dict[str, Any], RunConfig], str]] = {
    "start": _start_line, "train": _train_line, "eval": _eval_line, "checkpoint": _checkpoint_line,
    "rollback": _rollback_line, "problem": _problem_line, "attempt": _attempt_line,
}  # fmt: skip
"""Kind of a row -> its line."""


@contextmanager
def shown(out: Path, config: RunConfig) -> Iterator[None]:
    """Print the rows that a run adds to its log, as they come."""
    follower = _Follower(out / LOG_FILE)
    follower.new_lines()
    over = threading.Event()
    printer = threading.Thread(target=_print_rows, args=(follower, over, config), daemon=True)
    printer.start()
    try:
        yield
    finally:
        over.set()
        printer.join()


def _print_rows(follower: _Follower, over: threading.Event, config: RunConfig) -> None:
    while True:
        last_round = over.wait(POLL_SECONDS)
        for line in follower.new_lines():
            # Half a line, where a disk was full, or a row of a version that says less: there is more to show.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                print(line_of(json.loads(line), config), flush=True)
        if last_round:
            return


class _Follower:
    """Reads what a log grows by. A resumed run may put a shorter log in its place: of that, what was not there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._position = 0
        self._read: Counter[int] = Counter()
        """Hashes of the lines of the file so far."""

    def new_lines(self) -> list[bytes]:
        """Whole lines since the last call; none where the file cannot be read now."""
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    return []
                is_other = facts.st_ino != self._inode or facts.st_size < self._position
                file.seek(0 if is_other else self._position)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.splitlines()
        hashes = [hash(line) for line in lines]
        if not is_other:
            self._position += len(whole)
            self._read.update(hashes)
            return lines
        there, self._read = self._read, Counter(hashes)
        self._inode, self._position = facts.st_ino, len(whole)
        fresh = []
        for line, number in zip(lines, hashes, strict=True):
            if there[number]:
                there[number] -= 1
            else:
                fresh.append(line)
        return fresh


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
