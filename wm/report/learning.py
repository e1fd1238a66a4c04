"""How the run learned: its log as small charts side by side."""

from __future__ import annotations

import statistics
from typing import Any

from wm.report.chart import ChartText, Reference, Series, line_chart
from wm.report.formats import amount_text, count_text, duration_text, number
from wm.report.markup import Child, Markup, join, tag
from wm.report.results import (
    HEADLINE_METRICS,
    Metric,
    Result,
    best_baseline,
    context_order,
    context_text,
)
from wm.report.scale import amount_scale, linear_scale
from wm.report.section import Section, facts, nothing, term

MAX_POINTS = 120
"""Points of a line; more rows than that are averaged in groups, with their range as a band."""
X_UNIT = "targets seen (predictions trained on)"


def learning_section(log_rows: list[dict[str, Any]], results: list[Result]) -> Section:
    """Training loss, and the validation metrics while training, over targets seen."""
    train = [row for row in log_rows if row.get("kind") == "train"]
    validation = [row for row in log_rows if row.get("kind") == "eval"]
    charts = [_loss_chart(train)]
    charts += [_metric_chart(metric, validation, results) for metric in HEADLINE_METRICS]
    shown = [chart for chart in charts if chart is not None]
    return Section(
        key="learning",
        heading="How it learned",
        sentence=(
            "Each chart follows one number while the model trained, from left to right: good is loss and error "
            "falling, accuracy rising past the dashed baseline; bad is a line that stays flat or turns back at the end."
        ),
        body=join(
            _training_facts(train),
            tag("div", shown, class_="charts") if shown else nothing("The log holds nothing to draw yet."),
            _note(bool(shown), bool(validation)),
        ),
    )


def _note(has_charts: bool, has_validation: bool) -> Markup | None:
    if not has_charts:
        return None
    if not has_validation:
        return nothing("No validation was logged while training.")
    words = "Dashed: the best baseline, judged on the frames of the final evaluation."
    return tag("p", words, class_="note")


def _training_facts(train: list[dict[str, Any]]) -> Markup | None:
    if not train:
        return None
    seconds = [value for row in train if (value := number(row.get("seconds"))) is not None]
    speeds = [value for row in train if (value := number(row.get("targets_per_s"))) is not None]
    pairs: list[tuple[str, Child]] = [("Targets seen", count_text(train[-1].get("targets_seen")))]
    if seconds:
        pairs.append(("Training time", duration_text(max(seconds))))
    if speeds:
        pairs.append(("Speed, median", f"{count_text(statistics.median(speeds))} targets/s"))
    return facts(pairs)


def points_of(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """A number over targets seen; where a resumed run went back, its later rows replace the earlier ones."""
    points: list[tuple[float, float]] = []
    for row in rows:
        x, y = number(row.get("targets_seen")), number(row.get(key))
        if x is None or y is None:
            continue
        while points and points[-1][0] >= x:
            points.pop()
        points.append((x, y))
    return points


def thinned(points: list[tuple[float, float]], name: str) -> Series:
    """A line of at most MAX_POINTS points: means of neighbours, with a band from the smallest to the largest."""
    if len(points) <= MAX_POINTS:
        return Series(name=name, points=points)
    size = -(-len(points) // MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    middles = [(statistics.fmean(x for x, _ in group), [y for _, y in group]) for group in groups]
    return Series(
        name=name,
        points=[(x, statistics.fmean(ys)) for x, ys in middles],
        band=[(x, min(ys), max(ys)) for x, ys in middles],
    )


def _loss_chart(train: list[dict[str, Any]]) -> Markup | None:
    points = points_of(train, "loss")
    if not points:
        return None
    line = thinned(points, "training loss")
    text = ChartText(
        key="chart-loss",
        title="Training loss over targets seen",
        description=f"Training loss goes from {amount_text(points[0][1])} to {amount_text(points[-1][1])}.",
        y_unit="training loss",
        x_unit=X_UNIT,
        show=amount_text,
    )
    note = ". Line: mean of neighbouring steps; shade: their range." if line.band else "."
    caption = join(tag("strong", "Training loss"), ": what training makes small, lower is better", note)
    return _figure(line_chart(text, [line], None, amount_scale), caption)


def _metric_chart(metric: Metric, validation: list[dict[str, Any]], results: list[Result]) -> Markup | None:
    contexts = sorted({row.get("context") for row in validation}, key=context_order)
    lines = []
    for context in contexts:
        points = points_of([row for row in validation if row.get("context") == context], metric.key)
        if points:
            lines.append((context, points))
    if not lines:
        return None
    text = ChartText(
        key=f"chart-{metric.key}",
        title=f"Validation {metric.key} over targets seen",
        description=" ".join(
            f"{context_text(context)}: from {metric.text(points[0][1])} to {metric.text(points[-1][1])}."
            for context, points in lines
        ),
        y_unit=f"{metric.key}, {metric.unit}",
        x_unit=X_UNIT,
        show=metric.text,
    )
    series = [
        Series(name=_short(context), points=points, dots=len(points) <= 30, opacity=_opacity(i, len(lines)))
        for i, (context, points) in enumerate(lines)
    ]
    more = " The stronger the line, the more of the past is seen." if len(lines) > 1 else None
    caption = join(tag("strong", metric.title), " ", term(metric), f": {metric.direction}.", more)
    scale = (lambda ys, a, b: linear_scale(ys, a, b, is_share=True)) if metric.is_share else amount_scale
    return _figure(line_chart(text, series, baseline_reference(metric, results), scale), caption)


def baseline_reference(metric: Metric, results: list[Result]) -> Reference | None:
    """The best baseline as a dashed line; judged on the frames of the final evaluation."""
    rival = best_baseline(results, metric)
    value = number(rival.estimate(metric.key).value) if rival else None
    return None if rival is None or value is None else Reference(name=rival.name, value=value)


def _short(context: Any) -> str:
    return "all" if context is None else f"K={context}" if number(context) is not None else str(context)


def _opacity(number_of_line: int, num_lines: int) -> float:
    """More context, stronger line."""
    return 1.0 if num_lines == 1 else 0.45 + 0.55 * number_of_line / (num_lines - 1)


def _figure(chart: Markup, caption: Markup) -> Markup:
    return tag("figure", tag("figcaption", caption), chart)
