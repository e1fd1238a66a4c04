"""Scaling law of the loss with parameters and targets: L = E + A N^-a + B D^-b (Hoffmann et al. 2022, approach 3).

Fitted as in Besiroglu et al. 2024, who show how the original fit went wrong: the sum, not the mean, of the Huber losses
of log L, a tight tolerance, many starts, and a bootstrap over the points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPoint:
    """The end of one full schedule."""

    num_parameters: float
    num_targets: float
    """Targets trained on."""
    loss: float
    """`val_loss` on the evaluation frames, positive; a mean over seeds or one point for each seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """A check: the largest runs, predicted from the others."""

    num_points: int
    """Held out."""
    mean_error: float
    """Mean relative error of the predicted losses; positive: predicted too high."""
    num_inside: int
    """Points inside the prediction's interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingFit:
    """The fit. Where `no_statement` is not None, it is the reason why nothing may be concluded from it."""

    irreducible_loss: Interval
    """E."""
    parameter_coefficient: Interval
    """A."""
    parameter_exponent: Interval
    """a."""
    target_coefficient: Interval
    """B."""
    target_exponent: Interval
    """b."""
    replicates: tuple[tuple[float, float, float, float, float], ...]
    """(E, A, a, B, b) of each bootstrap replicate."""
    residual: float
    """Root mean square of log L - log of the fit."""
    hold_out: HoldOut | None
    """None with too few points."""
    no_statement: str | None
    num_points: int
    num_sizes: int
    """Different numbers of parameters."""
    num_durations: int
    """Different numbers of targets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """What to train for a budget. Where `no_statement` is not None, the numbers are for inspection only."""

    budget_flops: float
    num_parameters: Interval
    num_targets: Interval
    loss: Interval
    no_statement: str | None


def fit_scaling(
    points: Sequence[ScalingPoint], *, num_replicates: int = 200, random_seed: int = 0
) -> ScalingFit | None:
    """Fit the law.

    Returns:
        None with fewer than two points. A fit of too few sizes or targets has `no_statement`.
    """
    raise NotImplementedError


def allocate(fit: ScalingFit, budget_flops: float, flops_per_parameter_and_target: float) -> Allocation:
    """Parameters and targets with the lowest loss for a budget.

    Args:
        budget_flops: of training.
        flops_per_parameter_and_target: training FLOPs of one target divided by the number of parameters, about 6; a
            budget in device hours is hours x 3,600 x the measured FLOP/s.
    """
    raise NotImplementedError
