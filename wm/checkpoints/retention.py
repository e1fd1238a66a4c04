"""Which checkpoints are kept: the newest, and the best by each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from wm.checkpoints.files import CheckpointName

Metric = Literal["val_loss", "change_acc"]
SIGN: dict[Metric, int] = {"val_loss": -1, "change_acc": 1}
"""+1 if higher values of a metric are better."""


def metric_of(meta: dict[str, Any], metric: Metric) -> float | None:
    """A metric of a checkpoint's own weights, at the first context of its last validation.

    None if the weights were not evaluated at their own number of targets, or the value is not finite.
    """
    for row in meta.get("metrics", ())[:1]:
        if row["targets_seen"] == meta["targets_seen"] and math.isfinite(row[metric]):
            return row[metric]
    return None


def best_of(metas: Mapping[CheckpointName, dict[str, Any]], metric: Metric) -> CheckpointName | None:
    """The best by a metric, the newest of equals; None if none was evaluated."""
    values = {name: value for name, meta in metas.items() if (value := metric_of(meta, metric)) is not None}
    return max(values, key=lambda name: (SIGN[metric] * values[name], name)) if values else None


def retained(metas: Mapping[CheckpointName, dict[str, Any]], keep_last: int) -> set[CheckpointName]:
    """The newest checkpoints and the best by each metric; only the last revision at each number of targets counts."""
    last = {name.targets_seen: name for name in sorted(metas)}
    metas = {name: metas[name] for name in last.values()}
    best = {best_of(metas, metric) for metric in SIGN}
    return set(sorted(metas)[-keep_last:]) | {name for name in best if name is not None}
