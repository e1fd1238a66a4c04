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
    """A metric of a checkpoint's own weights, at `judged_context` if meta.json has one, otherwise of the first row.

    None if the weights were not evaluated at their own number of targets, or the value is not finite.
    """
    context = meta.get("judged_context")
    for row in meta.get("metrics", ()):
        if context is None or row["context"] == context:
            value = row[metric]
            is_own = row["targets_seen"] == meta["targets_seen"]
            return value if is_own and math.isfinite(value) else None
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
