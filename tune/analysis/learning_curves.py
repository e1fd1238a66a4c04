"""Would more training decide? From how the loss of a K has changed between validations.

An extrapolation of learning curves may propose to train on; it never chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tune.analysis.context_comparison import ContextResult, RuleResult
from wm.evaluation.metrics import SIGN, Context

MIN_VALIDATIONS = 5
"""In the part of the curve that is fitted."""
FITTED_PART = 0.25
"""Validations after this part of the targets count: earlier ones tell little about the end."""
MAX_MORE_TRAINING = 4.0
"""Times the targets of now; beyond this nothing is proposed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """A metric at one K in the validations of a training, a mean over seeds."""

    targets: np.ndarray
    """(T,), targets trained on, ascending."""
    values: np.ndarray
    """(T,)."""


def more_targets(result: RuleResult, curves: Mapping[Context, LearningCurve]) -> int | None:
    """Further targets after which the losses that are not decided would be, if their trends went on.

    Returns:
        None unless the trends differ from none (95 %), lead away from the threshold, and decide within
        MAX_MORE_TRAINING times the present targets.
    """
    now = max((float(curve.targets[-1]) for curve in curves.values()), default=0.0)
    open_rows = [row for row in result.rows if row.status == "not decided"]
    enough, worse = [], []
    for row in open_rows:
        needed, falls = _targets_needed(result, row, curves)
        (enough if falls else worse).append(needed)
    least = min(enough, default=np.inf)
    if not np.isfinite(least) and not enough:
        least = max(worse, default=np.inf)
    return round(least - now) if now < least <= MAX_MORE_TRAINING * now else None


def _targets_needed(
    result: RuleResult, row: ContextResult, curves: Mapping[Context, LearningCurve]
) -> tuple[float, bool]:
    """Targets at which a K is decided, inf if never, and whether its loss falls."""
    if row.context not in curves or result.reference not in curves:
        return np.inf, True
    own, reference = curves[row.context], curves[result.reference]
    targets, of_own, of_reference = np.intersect1d(own.targets, reference.targets, return_indices=True)
    late = targets >= FITTED_PART * targets.max(initial=0.0)
    if late.sum() < MIN_VALIDATIONS:
        return np.inf, True
    losses = (reference.values[of_reference] - own.values[of_own])[late]
    if SIGN[result.rule.metric] < 0:
        losses = -losses
    if result.rule.relative:
        losses = losses / reference.values[of_reference][late]
    trend = stats.linregress(np.log(targets[late]), losses)
    falls = bool(trend.slope < 0)
    if not abs(trend.slope) > stats.t.isf(0.025, late.sum() - 2) * trend.stderr:
        return np.inf, falls
    margin = row.loss_high - row.loss if falls else row.loss - row.loss_low
    decided_at = result.rule.threshold - margin if falls else result.rule.threshold + margin
    change = (decided_at - row.loss) / trend.slope
    return float(targets[-1] * np.exp(min(change, 50.0))), falls
