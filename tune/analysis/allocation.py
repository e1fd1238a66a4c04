"""What to train for a budget, by a scaling law: how many parameters on how many targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from datasets.runtime.errors import UserError
from tune.analysis.scaling import Interval, ScalingFit, interval_of
from tune.analysis.scaling_law import log_loss

MAX_RANGE = 4.0
"""Largest to smallest number of parameters in the interval, for a statement."""
MAX_EXTRAPOLATION = 30.0
"""Budget relative to the largest run's, for a statement."""
_NUM_SIZES = 600
_SIZE_RANGE = 100.0
"""The search goes so many times below the smallest and above the largest size of the fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """What to train for a budget. Where `no_statement` is not None, the numbers are for inspection only."""

    budget_flops: float
    num_parameters: Interval
    num_targets: Interval
    loss: Interval
    """Of the law at the estimated optimum, without the scatter of single runs."""
    extrapolation: float
    """Budget relative to the training FLOPs of the largest run of the fit."""
    no_statement: str | None


def allocate(
    fit: ScalingFit, budget_flops: float, flops_per_target: Sequence[tuple[float, float]]
) -> Allocation | None:
    """Parameters and targets with the lowest loss for a budget.

    Args:
        budget_flops: of training. For device hours: hours x 3,600 x the measured FLOP/s of training.
        flops_per_target: (number of parameters, training FLOPs of one target) of the runs; a power law through them
            gives those of other sizes.
    Returns:
        None if the fit has no numbers.
    Raises:
        UserError: the budget is not positive.
    """
    if not 0 < budget_flops < float("inf"):
        raise UserError(f"a budget of {budget_flops:g} FLOPs; it must be positive")
    if not len(fit.replicates):
        return None
    known = np.log(np.array(sorted(set(flops_per_target)), np.float64))
    sizes = np.unique(known[:, 0])
    power = np.polyfit(known[:, 0], known[:, 1], 1) if len(sizes) > 1 else np.array([1.0, (known[:, 1] - sizes).mean()])
    low, high = np.log(fit.size_range) + np.log([1 / _SIZE_RANGE, _SIZE_RANGE])
    log_sizes = np.linspace(low, high, _NUM_SIZES)
    log_targets = np.log(budget_flops) - np.polyval(power, log_sizes)
    best = log_loss(fit.replicates, log_sizes, log_targets).argmin(1)
    chosen = int(log_loss(fit.estimate, log_sizes, log_targets).argmin())
    at_optimum = log_loss(fit.replicates, log_sizes[[chosen]], log_targets[[chosen]])[:, 0]
    largest_flops = float(np.exp(np.polyval(power, np.log(fit.size_range[1]))) * fit.target_range[1])
    value = float(np.exp(log_loss(fit.estimate, log_sizes[[chosen]], log_targets[[chosen]])[0]))
    result = Allocation(
        budget_flops=budget_flops,
        num_parameters=interval_of(float(np.exp(log_sizes[chosen])), np.exp(log_sizes[best])),
        num_targets=interval_of(float(np.exp(log_targets[chosen])), np.exp(log_targets[best])),
        loss=interval_of(value, np.exp(at_optimum)),
        extrapolation=budget_flops / largest_flops,
        no_statement=None,
    )
    return _with_reason(result, fit, at_edge=chosen in (0, _NUM_SIZES - 1))


def _with_reason(result: Allocation, fit: ScalingFit, *, at_edge: bool) -> Allocation:
    size = result.num_parameters
    reason = fit.no_statement
    if reason is None and at_edge:
        reason = "the law has no optimum near the sizes that were trained"
    if reason is None and size.high > MAX_RANGE * size.low:
        reason = f"the interval of the parameters is too wide: {size.low:.2g} to {size.high:.2g}"
    if reason is None and result.extrapolation > MAX_EXTRAPOLATION:
        reason = (
            f"the budget is {result.extrapolation:.0f} times that of the largest run; the law is not extrapolated "
            f"beyond {MAX_EXTRAPOLATION:.0f} times"
        )
    return replace(result, no_statement=reason)
