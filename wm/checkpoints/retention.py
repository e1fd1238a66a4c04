"""Which checkpoints are kept: the newest ones, and the best one.

meta.json of every checkpoint names the criterion and the best validation so far, under `best`: `metric`, `context`,
`num_targets`, `value` and `targets_seen`; and under `validation` the rows of its own weights, empty if they were not
validated. The rows of all checkpoints are of the same frames: those of the larger evaluation at the run's end are
elsewhere (`metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wm.checkpoints.files import CheckpointName
from wm.config.run_config import MetricName, default_best_context
from wm.evaluation.metrics import SIGN, context_text

Row = dict[str, Any]
"""One evaluation at one context: `context`, `num_targets`, `targets_seen` and the metrics."""


def is_better(row: Row, best: Mapping[str, Any]) -> bool:
    """Whether a row at the context of `best` is better than the best so far.

    Args:
        best: as in meta.json; without `value` there was none so far.
    """
    value, before = row[best["metric"]], best.get("value")
    if value is None:
        return False
    same_frames = best.get("num_targets") == row["num_targets"]
    return before is None or not same_frames or SIGN[best["metric"]] * (value - before) > 0


def best_of(metas: Mapping[CheckpointName, dict[str, Any]]) -> CheckpointName | None:
    """The best checkpoint by the criterion of the newest one, the newest of equals; None if none was validated."""
    if not metas:
        return None
    rows = {name: own_rows(meta) for name, meta in metas.items()}
    best = metas[max(metas)].get("best", {})
    metric: MetricName = best.get("metric", "change_acc")
    context = best.get("context") or default_best_context({row["context"] for own in rows.values() for row in own})
    scores = {
        name: row for name, own in rows.items() for row in own if row["context"] == context and row[metric] is not None
    }
    if not scores:
        return None
    num_targets = scores[max(scores)]["num_targets"]
    comparable = [name for name, row in scores.items() if row["num_targets"] == num_targets]
    return max(comparable, key=lambda name: (SIGN[metric] * scores[name][metric], name))


def own_rows(meta: Mapping[str, Any]) -> list[Row]:
    """The validation of a checkpoint's own weights; empty if they were not validated.

    Up to version 0.2 only the last rows before the checkpoint were stored, which may be of earlier weights or, at the
    end of a run, of more frames.
    """
    rows = meta.get("validation")
    if rows is None:
        rows = [] if meta.get("finished") else meta.get("metrics", [])
    return [row for row in rows if row["targets_seen"] == meta["targets_seen"]]


def retained(metas: Mapping[CheckpointName, dict[str, Any]], keep_last: int) -> set[CheckpointName]:
    """The newest checkpoints and the best one; only the last revision at each number of targets counts."""
    last = {name.targets_seen: name for name in sorted(metas)}
    metas = {name: metas[name] for name in last.values()}
    best = best_of(metas)
    return set(sorted(metas)[-keep_last:]) | ({best} if best is not None else set())


def best_text(best: Mapping[str, Any]) -> str:
    """The best validation for readers; empty if there is none.

    Args:
        best: as in meta.json.
    """
    if best.get("value") is None:
        return ""
    return (
        f"{best['metric']} {best['value']:.3f} at {context_text(best['context'])} on {best['num_targets']:,} frames, "
        f"after {best['targets_seen']:,} targets"
    )
