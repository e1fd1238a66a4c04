"""The charts of a run's report, from its log, its evaluation and the counts of its corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datasets.corpus.info import CorpusInfo
from wm.evaluation.metrics import context_order, context_text
from wm.report.charts import (
    Axis,
    Category,
    Estimate,
    bars_with_intervals,
    learning_curve,
    points_with_intervals,
)
from wm.report.numbers import finite
from wm.report.page import Chart
from wm.report.results import (
    CHANGE_ACC,
    HEADLINE_METRICS,
    METRICS,
    MetricInfo,
    Result,
    Scores,
    best_baseline,
)

TARGETS_SEEN = Axis(title="targets seen")
HEADINGS = {"action": "By kind of action", "character": "By character", "stage": "By stage"}

Row = dict[str, Any]


def learning_charts(log_rows: Sequence[Row], results: Sequence[Result]) -> list[Chart]:
    """Training loss, and each validation metric by context."""
    charts = []
    if loss := points_of((row for row in log_rows if row.get("kind") == "train"), "loss"):
        figure = learning_curve({"loss": loss}, x=TARGETS_SEEN, y=Axis(title="training loss"), smooth=True)
        charts.append(Chart(key="loss", title="Training loss", note="lower is better", figure=figure))
    validation = [row for row in log_rows if row.get("kind") == "eval"]
    contexts = sorted({row.get("context") for row in validation}, key=context_order)
    for metric in HEADLINE_METRICS:
        lines = {
            context_text(context): points_of((row for row in validation if row.get("context") == context), metric.key)
            for context in contexts
        }
        if any(lines.values()):
            figure = learning_curve(lines, x=TARGETS_SEEN, y=metric.axis, baselines=_baselines(results, metric))
            charts.append(_metric_chart("validation", metric, figure, "on validation games; "))
    return charts


def points_of(rows: Iterable[Row], key: str) -> list[tuple[float, float]]:
    """(targets seen, value) of the rows that have both. After a resume, later rows replace those they repeat."""
    points: list[tuple[float, float]] = []
    for row in rows:
        x, y = finite(row.get("targets_seen")), finite(row.get(key))
        if x is None or y is None:
            continue
        while points and points[-1][0] >= x:
            points.pop()
        points.append((x, y))
    return points


def context_charts(results: Sequence[Result]) -> list[Chart]:
    """Each metric by context length; none if the model was evaluated at one context only."""
    models = [result for result in results if result.is_model]
    charts = []
    for metric in METRICS if len(models) > 1 else ():
        points = [
            Category(name=context_text(model.context).removeprefix("K = "), estimate=model.estimate(metric.key))
            for model in models
        ]
        x, baselines = Axis(title="context length K, frames"), _baselines(results, metric)
        figure = points_with_intervals({"model": points}, x=x, y=metric.axis, baselines=baselines)
        charts.append(_metric_chart("context", metric, figure))
    return charts


def headline_chart(metric: MetricInfo, model: Result, results: Sequence[Result]) -> Chart:
    """The model and the baselines as bars."""
    bars = [
        Category(name=result.name, estimate=result.estimate(metric.key), is_baseline=not result.is_model)
        for result in [model, *(result for result in results if not result.is_model)]
    ]
    return _metric_chart("headline", metric, bars_with_intervals(bars, value=Axis(title="", kind=metric.kind)))


def breakdown_charts(model: Result, results: Sequence[Result]) -> dict[str, list[Chart]]:
    """Heading -> each metric by kind of frames, the most frequent first, with marks of the best baseline."""
    return {
        HEADINGS.get(dimension, f"By {dimension}"): [
            _slices_chart(f"breakdown-{i}", metric, slices, best_baseline(results, metric), dimension)
            for metric in HEADLINE_METRICS
        ]
        for i, (dimension, slices) in enumerate(model.slices.items())
        if slices
    }


def _slices_chart(
    prefix: str, metric: MetricInfo, slices: Sequence[Scores], baseline: Result | None, dimension: str
) -> Chart:
    # By definition every baseline has a change_acc of 0, so a mark would say nothing.
    has_marks = baseline is not None and metric is not CHANGE_ACC
    marks = (
        {part.name: part.estimate(metric.key).value for part in baseline.slices.get(dimension, [])} if has_marks else {}
    )
    bars = []
    for part in slices:
        estimate, mark = part.estimate(metric.key), marks.get(part.name)
        is_worse = estimate.value is not None and mark is not None and metric.is_better(mark, estimate.value)
        detail = f"{part.count:,} pairs of frame and player"
        bars.append(Category(name=part.name, estimate=estimate, detail=detail, baseline=mark, is_worse=is_worse))
    return _metric_chart(prefix, metric, bars_with_intervals(bars, value=metric.axis))


def corpus_charts(corpus: CorpusInfo) -> list[Chart]:
    """Games by stage and by character, the most frequent first."""
    charts = []
    for kind, counts in (("stage", corpus.games_by_stage), ("character", corpus.games_by_character)):
        bars = [
            Category(name=name, estimate=Estimate(value=count), text=f"{count:,} ({count / corpus.num_games:.0%})")
            for name, count in counts.items()
        ]
        figure = bars_with_intervals(bars, value=Axis(title="games", kind="count"))
        charts.append(Chart(key=f"games-by-{kind}", title=f"Games by {kind}", figure=figure))
    return charts


def _baselines(results: Sequence[Result], metric: MetricInfo) -> list[Category]:
    baseline = best_baseline(results, metric)
    return [Category(name=baseline.name, estimate=baseline.estimate(metric.key))] if baseline else []


def _metric_chart(prefix: str, metric: MetricInfo, figure: Any, note: str = "") -> Chart:
    return Chart(key=f"{prefix}-{metric.key}", title=metric.title, note=f"{note}{metric.direction}", figure=figure)
