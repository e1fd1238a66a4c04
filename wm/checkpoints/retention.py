"""Which checkpoints are kept: the newest, and the best by each metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from wm.checkpoints.files import Name

Metric = Literal["val_loss", "change_acc"]
SIGN: dict[Metric, int] = {"val_loss": -1, "change_acc": 1}
"""What makes more of a metric better: a loss is good when it is low."""


def judged_value(meta: dict[str, Any], metric: Metric) -> float | None:
    """A metric of a checkpoint's own weights: of `judged_context`, or else of the first row.

    None where it was not judged at its own place, or the value is no number.
    """
    context = meta.get("judged_context")
    for row in meta.get("metrics", ()):
        if context is None or row["context"] == context:
            value = row[metric]
            is_own = row["targets_seen"] == meta["targets_seen"]
            return value if is_own and math.isfinite(value) else None
    return None


def best_of(metas: Mapping[Name, dict[str, Any]], metric: Metric) -> Name | None:
    """The best by a metric, of equals the newest; None where none was judged."""
    judged = {name: value for name, meta in metas.items() if (value := judged_value(meta, metric)) is not None}
    return max(judged, key=lambda name: (SIGN[metric] * judged[name], name)) if judged else None


def kept_of(metas: Mapping[Name, dict[str, Any]], keep_last: int) -> set[Name]:
    """The newest of some checkpoints, and the best by each metric; of one number of targets only the last revision."""
    last = {name.targets_seen: name for name in sorted(metas)}
    metas = {name: metas[name] for name in last.values()}
    best = {best_of(metas, metric) for metric in SIGN}
    return set(sorted(metas)[-keep_last:]) | {name for name in best if name is not None}
