"""What the scaling fit of a sweep expects of a run: `val_loss`, and `change_acc` by its relation to `val_loss`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tune.analysis.scaling import Interval, ScalingFit
    from tune.results.evidence import FinishedTrial
    from wm.config.run_config import Context

from cluster.plan.workload import Workload
from datasets.runtime.uris import without_credentials

NO_SWEEP = "no sweep over sizes and durations is named (--sweep FOLDER)"
MIN_POINTS = 8
"""Runs that the relation of change_acc to val_loss is fitted to."""
EXTRAPOLATION = 100.0
"""Times the largest size, or number of targets, of the sweep up to which the fit is asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """Both metrics with 95 % intervals (value, low, high); None where nothing can be said."""

    val_loss: tuple[float, float, float] | None = None
    change_acc: tuple[float, float, float] | None = None
    context: str | None = None
    """K at which they are judged."""
    reason: str | None = NO_SWEEP
    """Why nothing, or not all, can be said."""

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        named = {
            name: None if value is None else dict(zip(("value", "low", "high"), value, strict=True))
            for name, value in (("val_loss", self.val_loss), ("change_acc", self.change_acc))
        }
        return {**named, "expected_context": self.context, "expected_reason": self.reason}


def expectation_of(sweep: Path | str | None) -> Callable[[Workload], Expectation]:
    """How to expect something of a run.

    Args:
        sweep: folder or URI of a sweep.
    Raises:
        UserError: no trial of the sweep has finished.
    """
    if sweep is None:
        return lambda _workload: Expectation()
    from tune.report.scaling import scaling_report
    from tune.results.evidence import load_evidence
    from tune.results.sweep_folder import open_sweep
    from wm.evaluation.metrics import context_text

    evidence = load_evidence(open_sweep(sweep))
    report = scaling_report(evidence)
    if report.fit.no_statement is not None or report.context is None:
        why = report.fit.no_statement or "no losses"
        reason = f"the scaling fit of {without_credentials(str(sweep))} allows no statement: {why}"
        return lambda _workload: Expectation(reason=reason)
    relation = change_acc_relation(_pairs(evidence.trials, report.context))
    kinds = {
        (trial.config.model.kind, trial.config.model.encoding, trial.config.objective.kind) for trial in evidence.trials
    }
    return lambda workload: expect(workload, report.fit, relation, context_text(report.context), kinds)


def expect(
    workload: Workload,
    fit: ScalingFit,
    relation: Callable[[Interval], tuple[float, float, float]] | None,
    context: str,
    kinds: Collection[tuple[object, ...]],
) -> Expectation:
    """What a fit says of a run.

    Args:
        relation: `val_loss` with its interval -> `change_acc` with its.
        kinds: kind, encoding and objective of the sweep's networks.
    """
    network = workload.network
    if (network.kind, network.encoding, network.objective) not in kinds:
        return Expectation(
            reason=f"the sweep has no {network.kind} of encoding {network.encoding}, {network.objective}"
        )
    if (
        network.num_parameters > EXTRAPOLATION * fit.size_range[1]
        or workload.targets > EXTRAPOLATION * fit.target_range[1]
    ):
        return Expectation(
            reason=f"more than {EXTRAPOLATION:.0f} times the sweep's largest network or duration: too far to say"
        )
    loss = fit.loss_at(network.num_parameters, workload.targets)
    reason = None if relation is not None else f"change_acc: fewer than {MIN_POINTS} finished runs, or no relation"
    return Expectation(
        val_loss=(loss.value, loss.low, loss.high),
        change_acc=None if relation is None else relation(loss),
        context=context,
        reason=reason,
    )


def change_acc_relation(
    pairs: list[tuple[float, float]],
) -> Callable[[Interval], tuple[float, float, float]] | None:
    """A line through logit(change_acc) against log(val_loss), by least squares.

    Args:
        pairs: (val_loss, change_acc) of finished runs, both positive.
    Returns:
        From a loss with its interval to change_acc with an interval that has the scatter of the runs in it; None if the
        runs show no falling relation.
    """
    inside = [(loss, right) for loss, right in pairs if loss > 0 and 0 < right < 1]
    if len(inside) < MIN_POINTS:
        return None
    x, right = np.log([loss for loss, _ in inside]), np.array([right for _, right in inside])
    y = np.log(right / (1 - right))
    if np.ptp(x) < 1e-6:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    if slope >= 0:
        return None
    scatter = 1.96 * float(np.sqrt(((y - slope * x - intercept) ** 2).sum() / (len(x) - 2)))

    def accuracy(loss: float, shift: float) -> float:
        return float(1 / (1 + np.exp(-(slope * np.log(loss) + intercept + shift))))

    return lambda loss: (accuracy(loss.value, 0.0), accuracy(loss.high, -scatter), accuracy(loss.low, scatter))


def _pairs(trials: tuple[FinishedTrial, ...], context: Context) -> list[tuple[float, float]]:
    from wm.evaluation.game_sums import metric_values

    found = [metric_values(trial.evidence.sums[context]) for trial in trials if context in trial.evidence.sums]
    return [
        (row["val_loss"], row["change_acc"])
        for row in found
        if row["val_loss"] is not None and row["change_acc"] is not None
    ]
