"""The scaling fit for a terminal: the points, the law, how it was checked, and what to train for a budget."""

from __future__ import annotations

from tune.analysis.allocation import Allocation
from tune.analysis.scaling import Interval, ScalingFit
from tune.report.scaling import ScalingReport
from tune.report.table import amount_text, flops_text, number_text, paragraph, text_table
from wm.evaluation.metrics import context_text


def scaling_sentence(scaling: ScalingReport) -> str:
    """What the fit says, in one sentence."""
    if scaling.reason is not None:
        return f"no statement, because {_lower(scaling.reason).rstrip('.')}."
    return allocation_text(scaling.allocations[-1], scaling)


def describe_scaling(scaling: ScalingReport) -> str:
    """The whole fit as text for a terminal."""
    parts: list[str] = []
    if scaling.reason is not None:
        parts.append(paragraph(f"No statement: {_lower(scaling.reason).rstrip('.')}."))
    statements = scaling.allocations if scaling.reason is None else ()
    parts += [paragraph(allocation_text(allocation, scaling)) for allocation in statements]
    if scaling.points and scaling.context is not None:
        parts.append(_points_table(scaling))
    if scaling.is_fitted:
        parts.append("\n".join(map(paragraph, law_text(scaling.fit).splitlines())))
    if scaling.flops_per_device_s is not None:
        device = "GPU" if scaling.device == "cuda" else "CPU process"
        speed = f"{flops_text(scaling.flops_per_device_s)}/s on one {device}"
        ratio = f"{scaling.flops_per_parameter_and_target:.2f} FLOPs a parameter and target"
        parts.append(paragraph(f"Measured speed of the largest run: {speed}; {ratio}."))
    return "\n\n".join(parts)


def allocation_text(allocation: Allocation, scaling: ScalingReport) -> str:
    """What to train for a budget."""
    budget = f"For a budget of {flops_text(allocation.budget_flops)}{_hours_text(allocation, scaling)}"
    if allocation.no_statement is not None:
        return f"{budget}: no statement, because {_lower(allocation.no_statement).rstrip('.')}."
    return (
        f"{budget} train {_between(allocation.num_parameters)} parameters on {_between(allocation.num_targets)} "
        f"targets; expected val_loss {_interval(allocation.loss)}."
    )


def law_text(fit: ScalingFit) -> str:
    """The law with its intervals, and its check."""
    lines = [
        f"L = E + A N^-a + B D^-b with N parameters and D targets: E {_interval(fit.irreducible_loss)}, "
        f"a {_interval(fit.parameter_exponent)}, b {_interval(fit.target_exponent)}",
        f"{fit.num_points} points of {fit.num_sizes} sizes and {fit.num_durations} durations; "
        f"residual {fit.residual:.1%} of the loss",
    ]
    if fit.hold_out is None:
        lines.append("Not checked on held-out runs: too few points.")
    else:
        check = fit.hold_out
        lines.append(
            f"Check: the {check.num_points} largest runs, predicted from the others, deviate by "
            f"{check.mean_error:+.1%} on average; {check.num_inside} of them lie within their interval."
        )
    return "\n".join(lines)


def _points_table(scaling: ScalingReport) -> str:
    rows = []
    for point in sorted(scaling.points, key=lambda p: (p.num_parameters, p.num_targets)):
        fitted = None
        if scaling.is_fitted:
            fitted = scaling.fit.loss_at(point.num_parameters, point.num_targets).value
        rows.append(
            (
                amount_text(point.num_parameters),
                amount_text(point.num_targets),
                number_text(point.loss),
                number_text(fitted),
                "–" if fitted is None else f"{point.loss / fitted - 1:+.1%}",
            )
        )
    assert scaling.context is not None
    title = f"val_loss at {context_text(scaling.context)} at the ends of full schedules"
    return f"{title}\n" + text_table(("parameters", "targets", "val_loss", "fit", "deviation"), rows)


def _hours_text(allocation: Allocation, scaling: ScalingReport) -> str:
    if not scaling.flops_per_device_s:
        return ""
    hours = allocation.budget_flops / scaling.flops_per_device_s / 3_600
    return f" ({hours:,.2g} h of one {'GPU' if scaling.device == 'cuda' else 'CPU process'} at the measured speed)"


def _between(interval: Interval) -> str:
    return f"{amount_text(interval.value)} [{amount_text(interval.low)}, {amount_text(interval.high)}]"


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
