"""What a person sees while a run trains: the rows of its log as lines, wherever the workers are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wm.config import RunConfig
from wm.run_folder import LOG_FILE

POLL_SECONDS = 0.5


def line_of(row: dict[str, Any], config: RunConfig) -> str:
    """One row of log.jsonl as a line of the terminal."""
    if row["kind"] == "start":
        at = f", resumed at {row['targets_seen']:,} targets" if row["targets_seen"] else ""
        return (
            f"{row['num_parameters'] / 1e6:.1f} M parameters on {row['workers']} x {row['device']}, "
            f"{row['train_games']:,} games ({row['train_frames']:,} frames) to train on, "
            f"{row['judged_games']:,} to be judged on{at}"
        )
    if row["kind"] == "eval":
        values = "  ".join(f"{name} {_text(row[name])}" for name in ("change_acc", "action_acc", "pos_mae", "val_loss"))
        return f"{'judged':>8} at K = {row['context']:<4} {values}"
    total = config.optimiser.total_targets
    left = (total - row["targets_seen"]) / max(1.0, row["targets_per_s"])
    if config.max_seconds is not None:
        left = min(left, config.max_seconds - row["seconds"])
    return (
        f"{row['targets_seen'] / 1e6:8.2f} of {total / 1e6:.2f} M targets  {row['targets_per_s']:9,.0f}/s  "
        f"loss {row['loss']:6.3f}  change_acc {row['change_acc']:.3f}  {_duration(max(0.0, left))} left"
    )


@contextmanager
def shown(out: Path, config: RunConfig) -> Iterator[None]:
    """Print the rows that a run adds to its log, as they come."""
    path = out / LOG_FILE
    start = path.stat().st_size if path.exists() else 0
    over = threading.Event()
    printer = threading.Thread(target=_follow, args=(path, start, over, config), daemon=True)
    printer.start()
    try:
        yield
    finally:
        over.set()
        printer.join()


def _follow(path: Path, position: int, over: threading.Event, config: RunConfig) -> None:
    """Print whole lines from a position on. A resumed run rewrites its log, which then may be shorter."""
    while True:
        last_round = over.wait(POLL_SECONDS)
        if path.exists():
            position = min(position, path.stat().st_size)
            with path.open("rb") as file:
                file.seek(position)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            position += len(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # half a line, where the log was rewritten meanwhile
                    print(line_of(json.loads(line), config), flush=True)
        if last_round:
            return


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
