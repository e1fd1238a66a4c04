"""How large a model, on how many targets? The scaling fit of a sweep, and what it says about a budget."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tune.analysis.allocation import Allocation, allocate
from tune.analysis.scaling import ScalingFit, ScalingPoint, fit_scaling
from tune.results.evidence import FinishedTrial, SweepEvidence
from wm.config.run_config import Context
from wm.evaluation.metrics import context_order

BUDGETS = (1.0, 3.0, 10.0)
"""Of the report where none is named, times the FLOPs of the largest run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingReport:
    """The fit, what it is made of, and its statements."""

    context: Context | None
    """At which the losses were measured; None if no run has a loss."""
    points: tuple[ScalingPoint, ...]
    """A point for each run of the best setting of its size and duration."""
    fit: ScalingFit
    reason: str | None
    """Why there is no statement; None if there is one."""
    flops_per_parameter_and_target: float
    flops_per_device_s: float | None
    """Measured: training FLOPs per second of the largest run, per device."""
    device: str
    largest_flops: float
    """Training FLOPs of the largest run."""
    allocations: tuple[Allocation, ...]
    """One for each budget; none if the fit allows no statement."""

    @property
    def is_fitted(self) -> bool:
        """Whether there were enough points for a fit, though it may allow no statement."""
        return math.isfinite(self.fit.irreducible_loss.value)


def scaling_report(
    sweep: SweepEvidence, *, flops: float | None = None, device_hours: float | None = None
) -> ScalingReport:
    """Fit the scaling law to the finished trials.

    Args:
        flops: a budget of training, FLOPs.
        device_hours: a budget in hours of one device at the measured speed, instead.
    """
    trials = _comparable(sweep.trials)
    context = _shared_context(trials)
    chosen = _best_settings([trial for trial in trials if context in trial.val_loss], context)
    points = tuple(
        ScalingPoint(num_parameters=trial.num_parameters, num_targets=trial.targets_seen, loss=trial.val_loss[context])
        for trial in chosen
        if context is not None
    )
    largest = max(trials, key=lambda trial: trial.train_flops)
    speed = largest.train_flops / largest.device_s if largest.device_s > 0 else None
    ratio = largest.train_flops / largest.targets_seen / largest.num_parameters
    fit = fit_scaling(points)
    budgets = [flops] if flops is not None else [factor * largest.train_flops for factor in BUDGETS]
    if device_hours is not None and speed is not None:
        budgets = [3_600 * device_hours * speed]
    flops_per_target = [(trial.num_parameters, trial.train_flops / trial.targets_seen) for trial in trials]
    found = [] if fit.no_statement else [allocate(fit, budget, flops_per_target) for budget in budgets]
    allocations = tuple(allocation for allocation in found if allocation is not None)
    reason = fit.no_statement
    if allocations and all(allocation.no_statement for allocation in allocations):
        reason = allocations[0].no_statement
    return ScalingReport(
        context=context,
        points=points,
        fit=fit,
        reason=reason,
        flops_per_parameter_and_target=ratio,
        flops_per_device_s=speed,
        device=largest.device,
        largest_flops=largest.train_flops,
        allocations=allocations,
    )


def _comparable(trials: Sequence[FinishedTrial]) -> list[FinishedTrial]:
    """The largest group of trials with one network kind and one objective, since each has a law of its own."""
    groups: dict[object, list[FinishedTrial]] = defaultdict(list)
    for trial in trials:
        objective = trial.config.objective
        own_k = objective.context_frames if objective.kind == "window" else None
        groups[trial.config.model.kind, objective.kind, own_k].append(trial)
    return max(
        groups.values(), key=lambda group: (len({(t.num_parameters, t.targets_seen) for t in group}), len(group))
    )


def _shared_context(trials: Sequence[FinishedTrial]) -> Context | None:
    """The context at which most trials have a loss; the longest of equals."""
    counts = Counter(context for trial in trials for context in trial.val_loss)
    return max(counts, key=lambda context: (counts[context], context_order(context)), default=None)


def _best_settings(trials: Sequence[FinishedTrial], context: Context | None) -> list[FinishedTrial]:
    """For each size and duration the trials, one for each seed, of the setting with the lowest mean loss."""
    groups: dict[tuple[int, int], dict[str, list[FinishedTrial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        groups[trial.num_parameters, trial.config.optimizer.total_targets][trial.evidence.setting].append(trial)
    best = []
    for settings in groups.values():
        if context is not None:
            best += min(settings.values(), key=lambda own: statistics.mean(trial.val_loss[context] for trial in own))
    return best
