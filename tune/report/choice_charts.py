"""The charts of the choice of K: curves, differences, costs, slices and the scaling fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from tune.analysis.choice import ContextResult, RuleResult, Status
from tune.analysis.paired import Difference
from tune.report.cells import Cell
from tune.report.choose_k import ChoiceReport
from tune.report.scaling import ScalingReport
from tune.report.slices import DIMENSIONS, LEFT_OUT, SliceReport
from tune.report.table import amount_text
from wm.config.run_config import Context, MetricName
from wm.evaluation.metrics import SIGN, context_order, context_text
from wm.report.charts import Axis, Category, Estimate
from wm.report.comparison_charts import (
    CostPoint,
    ForestRow,
    cost_and_quality,
    curves_with_bands,
    forest,
    lines_over_points,
)
from wm.report.page import Chart
from wm.report.results import METRICS

UNITS: dict[str, str] = {metric.key: metric.unit for metric in METRICS}
TONES: dict[Status, str] = {
    "reference": "neutral", "non-inferior": "good", "worse": "bad", "not decided": "unclear",
}  # fmt: skip
LINE_POINTS = 40


def metric_axis(metric: MetricName) -> Axis:
    """The axis of a metric."""
    return Axis(title=f"{metric}, {UNITS[metric]}")


def curves_chart(report: ChoiceReport) -> Chart:
    """Each setting by K."""
    groups: dict[str, list[Category]] = defaultdict(list)
    for cell in sorted(report.cells, key=lambda cell: context_order(cell.context)):
        estimate = Estimate(value=cell.value, low=cell.low, high=cell.high)
        name = short_name(cell.context)
        groups[cell.setting].append(Category(name=name, estimate=estimate, detail=f"{cell.num_seeds} seeds"))
    metric = report.rule.metric
    better = "higher" if SIGN[metric] > 0 else "lower"
    figure = curves_with_bands(groups, x=Axis(title="context length K, frames"), y=metric_axis(metric))
    note = f"one curve for each setting, with its 95% band; {better} is better"
    return Chart(key="curves", title=f"{metric} by K", note=note, figure=figure)


def loss_chart(result: RuleResult, number: int) -> Chart:
    """The loss of each K, beside the threshold."""
    rows = [
        ForestRow(
            name=context_text(row.context),
            estimate=Estimate(value=row.loss, low=row.loss_low, high=row.loss_high),
            tone=TONES[row.status],
            detail=_detail(row),
        )
        for row in result.rows
    ]
    loss = "relative loss" if result.rule.relative else "loss"
    axis = Axis(title=f"{loss} of {result.rule.metric} to {context_text(result.reference)}")
    return Chart(
        key=f"loss-{number}",
        title=result.rule.text,
        note="enough where the whole interval lies left of the dashed threshold, worse where it lies right of it",
        figure=forest(rows, value=axis, threshold=result.rule.threshold),
    )


def cost_charts(report: ChoiceReport) -> list[Chart]:
    """Quality against the cost of playing, and of training."""
    play = Axis(title="ms a frame when played, one core")
    train = Axis(title="training FLOPs of one seed", kind="count")
    return [
        _cost_chart(report, "play", "Quality and cost of playing", play, lambda cell: cell.play.ms_per_frame),
        _cost_chart(report, "train", "Quality and cost of training", train, lambda cell: cell.train_flops),
    ]


def slice_charts(slices: SliceReport) -> list[Chart]:
    """The differences by kind of frames, a chart for each dimension."""
    longer, shorter = context_text(slices.longer), context_text(slices.shorter)
    axis = Axis(title=f"{slices.metric}: {longer} better by")
    return [
        Chart(
            key=f"slices-{number}",
            title=f"By {DIMENSIONS[dimension]}",
            note=f"right of the line, {longer} is better than {shorter}{_left_out(slices, dimension)}",
            figure=forest([_slice_row(label, own) for label, own in differences.items()], value=axis),
        )
        for number, (dimension, differences) in enumerate(slices.differences.items())
    ]


def scaling_chart(scaling: ScalingReport) -> Chart | None:
    """The losses over targets by size, with the fitted lines if there is a statement."""
    points: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for point in sorted(scaling.points, key=lambda p: (p.num_parameters, p.num_targets)):
        points[point.num_parameters].append((point.num_targets, point.loss))
    if not points or scaling.context is None:
        return None
    first, last = (f(d for own in points.values() for d, _ in own) for f in (min, max))
    lines = {}
    if scaling.reason is None:
        steps = [first * (last / first) ** (i / LINE_POINTS) for i in range(LINE_POINTS + 1)]
        for size in points:
            lines[_size_text(size)] = [(d, scaling.fit.loss_at(size, d).value) for d in steps]
    figure = lines_over_points(
        {_size_text(size): own for size, own in points.items()},
        lines,
        x=Axis(title="targets"),
        y=Axis(title="val_loss"),
    )
    note = f"at {context_text(scaling.context)}, at the ends of full schedules"
    return Chart(key="scaling", title="Validation loss by size and targets", note=note, figure=figure)


def short_name(context: Context) -> str:
    """A context on an axis of contexts."""
    return context_text(context).removeprefix("K = ")


def _left_out(slices: SliceReport, dimension: str) -> str:
    number = slices.num_left_out[dimension]
    return f"; {number} kinds with {LEFT_OUT} are left out" if number else ""


def _cost_chart(report: ChoiceReport, key: str, title: str, cost: Axis, cost_of: Callable[[Cell], float]) -> Chart:
    groups: dict[str, list[CostPoint]] = defaultdict(list)
    for cell in report.cells:
        is_on_front = cell.is_on_play_front if key == "play" else cell.is_on_train_front
        groups[cell.setting].append(
            CostPoint(
                name=f"{cell.setting}, {context_text(cell.context)}",
                cost=cost_of(cell),
                estimate=Estimate(value=cell.value, low=cell.low, high=cell.high),
                is_on_front=is_on_front,
                label=short_name(cell.context) if is_on_front else "",
            )
        )
    metric = report.rule.metric
    is_higher = SIGN[metric] > 0
    figure = cost_and_quality(groups, cost=cost, quality=metric_axis(metric), higher_is_better=is_higher)
    note = "large points with their K are the Pareto front: nothing is at least as good and cheaper"
    return Chart(key=f"cost-{key}", title=title, note=note, figure=figure)


def _slice_row(label: str, own: Difference) -> ForestRow:
    tone = "good" if own.low > 0 else "bad" if own.high < 0 else "unclear"
    return ForestRow(
        name=label,
        estimate=Estimate(value=own.difference, low=own.low, high=own.high),
        tone=tone,
        detail=f"{own.num_events:,} events in {own.num_games:,} games",
    )


def _detail(row: ContextResult) -> str:
    beyond = "; longer than any context seen in training" if row.beyond_training else ""
    return f"{row.setting}; {row.num_events:,} events, {row.num_games} games, {row.num_seeds} seeds{beyond}"


def _size_text(num_parameters: float) -> str:
    return f"{amount_text(num_parameters)} parameters"
