"""Progress of a run in the terminal: the rows of its log as lines, on whatever node the workers are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from datasets.runtime.errors import one_line
from datasets.runtime.text_format import format_duration
from wm.config.run_config import RunConfig
from wm.evaluation.metrics import METRICS, context_text
from wm.runs.run import Run
from wm.runs.run_files import RunFiles
from wm.runs.run_log import LOG_FILE, parse_row

POLL_SECONDS = 0.5
MAX_LINE_CHARS = 119
"""Of a progress line."""


def format_row(row: dict[str, Any], config: RunConfig) -> str:
    """One row of log.jsonl as a line for the terminal."""
    kind = row["kind"]
    if kind == "start":
        at, initial = "", row.get("initial_weights")
        if row["targets_seen"]:
            changed = f" with {row['changed']}" if row.get("changed") else ""
            at = f", resumed at {row['targets_seen']:,} targets{changed}"
        elif initial is not None:
            at = f", with the weights of {initial['checkpoint']}"
        schedule = (
            f"; batches of {row['batch_size']:,}, learning rate {row['learning_rate']:.2g} after "
            f"{row['warmup_targets']:,} targets"
        )
        compiling = "; compiling during the first update, up to a minute" if row.get("compiles") else ""
        return (
            f"{row['num_parameters'] / 1e6:.1f} M parameters on {row['workers']} x {row['device']}, "
            f"{row['train_games']:,} games ({row['train_frames']:,} frames) for training, "
            f"{row['judged_games']:,} for evaluation{at}{schedule}{compiling}"
        )
    if kind == "train":
        return _format_progress(row, config)
    if kind == "eval":
        metrics = ((name, row[name]) for name in METRICS)
        values = "  ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in metrics)
        text = f"{context_text(row['context']):<10} {values}"
    elif kind == "dreams":
        text = (
            f"coherence {row['coherence_20']:.2f} game units over 20 frames ({row['still_20']:.2f} of standing still), "
            f"actions right at frame 20 {row['action_acc_20']:.3f}"
        )
    elif kind == "checkpoint":
        text = f"at {row['targets_seen']:,} targets, training paused for {1e3 * row['seconds_held']:,.0f} ms"
    elif kind == "rollback":
        text = (
            f"from {row['targets_seen']:,} to {row['to_targets']:,} targets, learning rate x {row['rate_factor']:g}: "
            f"{row['reason']}"
        )
    else:
        kind, text = "warning", one_line(row["message"])
    return f"{kind:>10} {text}"


def _format_progress(row: dict[str, Any], config: RunConfig) -> str:
    """The most important figures, then as many of the others as fit."""
    total = config.optimizer.total_targets
    left = (total - row["targets_seen"]) / max(1.0, row["targets_per_s"])
    if config.max_seconds is not None:
        left = min(left, config.max_seconds - row["seconds"])
    line = (
        f"{row['targets_seen'] / 1e6:8.2f} of {total / 1e6:.2f} M targets  {row['targets_per_s']:9,.0f}/s  "
        f"loss {row['loss']:6.3f}  change_acc {row['change_acc']:.3f}  {format_duration(max(0.0, left))} left"
    )
    optional = []
    if row.get("wait_share") is not None:
        optional.append(f"wait {row['wait_share']:.0%}")
    memory = row.get("device_peak_gb", row.get("peak_gb"))
    if memory is not None:
        optional.append(f"{memory:.1f} GB")
    if row.get("data") is not None:
        optional.append(str(row["data"]))
    for text in optional:
        if len(line) + 2 + len(text) <= MAX_LINE_CHARS:
            line += f"  {text}"
    return line


@contextmanager
def print_progress(run: Run) -> Iterator[None]:
    """Print the rows that a run adds to its log, as they are added."""
    tail = _LogTail(run.files)
    tail.new_rows()
    is_over = threading.Event()
    printer = threading.Thread(target=_print_rows, args=(tail, is_over, run.config), daemon=True)
    printer.start()
    try:
        yield
    finally:
        is_over.set()
        printer.join()


def _print_rows(tail: _LogTail, is_over: threading.Event, config: RunConfig) -> None:
    while True:
        is_last = is_over.wait(POLL_SECONDS)
        for row in tail.new_rows():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a row of another version
                print(format_row(row, config), flush=True)
        if is_last:
            return


class _LogTail:
    """Follows a log. A resumed run replaces its log by the rows up to its checkpoint."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._version: tuple[int, ...] = ()
        self._lines: list[bytes] = []
        """The file so far."""

    def new_rows(self) -> list[dict[str, Any]]:
        """Rows added since the last call; none if the file cannot be read at the moment."""
        version = self._files.version(LOG_FILE)
        if version in ((), self._version):
            return []
        try:
            text = self._files.read(LOG_FILE)
        except OSError:
            return []
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        remaining = iter(self._lines)  # the file begins with some of these, in their order
        num_known = sum(1 for _ in takewhile(lambda line: line in remaining, lines))
        self._version, self._lines = version, lines
        return [row for line in lines[num_known:] if (row := parse_row(line)) is not None]
