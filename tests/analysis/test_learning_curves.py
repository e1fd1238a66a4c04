"""More training is proposed only where the trend of the validations supports it."""

from __future__ import annotations

import numpy as np
import pytest

from tune.analysis.context_comparison import ContextResult, Rule, RuleResult, Status
from tune.analysis.learning_curves import LearningCurve, more_targets
from wm.evaluation.metrics import Context

TARGETS = np.arange(1, 11) * 1e5


def row(context: Context, loss: float, status: Status, half_width: float = 0.02) -> ContextResult:
    return ContextResult(
        context=context,
        setting="",
        value=0.7,
        low=0.6,
        high=0.8,
        loss=loss,
        loss_low=loss - half_width,
        loss_high=loss + half_width,
        num_judged=1,
        num_events=1,
        num_games=40,
        num_seeds=3,
        beyond_training=False,
        status=status,
    )


def proposed(slope: float, loss: float = 0.04, noise: float = 0.0, targets: np.ndarray = TARGETS) -> int | None:
    """Of a K whose loss changes by so much with each factor of e in targets."""
    wiggle = noise * np.random.default_rng(0).standard_normal(len(targets))
    losses = loss + slope * np.log(targets / targets[-1]) + wiggle
    reference = LearningCurve(targets=targets, values=np.full(len(targets), 0.7))
    own = LearningCurve(targets=targets, values=0.7 - losses)
    result = RuleResult(rule=Rule(), reference=60, rows=(row(10, loss, "not decided"), row(60, 0.0, "reference")))
    return more_targets(result, {10: own, 60: reference})


def test_a_loss_that_falls_with_training_is_under_the_threshold_after_as_many_targets_as_its_trend_says():
    assert proposed(-0.02) == pytest.approx(1e6 * (np.exp(0.01 / 0.02) - 1), rel=1e-5)


def test_a_loss_that_rises_is_over_the_threshold_later():
    assert proposed(+0.05) == pytest.approx(1e6 * (np.exp(0.03 / 0.05) - 1), rel=1e-5)


@pytest.mark.parametrize(
    ("slope", "noise", "targets"),
    [(-0.02, 0.1, TARGETS), (-0.001, 0.0, TARGETS), (-0.02, 0.0, TARGETS[-3:])],
    ids=["noise", "too slow", "too few validations"],
)
def test_nothing_is_proposed_without_a_trend_that_decides_soon(slope, noise, targets):
    assert proposed(slope, noise=noise, targets=targets) is None
