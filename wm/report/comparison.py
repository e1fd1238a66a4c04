"""The table of all that was judged, and what more context brings."""

from __future__ import annotations

from wm.report.chart import ChartText, category_chart
from wm.report.formats import number
from wm.report.learning import baseline_reference
from wm.report.markup import Child, Markup, join, tag
from wm.report.results import HEADLINE_METRICS, METRICS, Metric, Result, best, context_text
from wm.report.section import Section, hidden, nothing, small, table, term


def comparison_section(results: list[Result]) -> Section:
    """Every predictor beside every other, on the same frames."""
    if not results:
        body = nothing("Nothing was judged yet.")
    else:
        caption = "Both players together. ★ marks the best of each column; below each value its 95% interval."
        body = join(_metric_table(results, caption, "", METRICS), _first_player(results))
    return Section(
        key="comparison",
        heading="Model and baselines",
        sentence=(
            "All predictors judged on the same frames: good is a model that holds the star in every column; bad is a "
            "model that a baseline, a rule that never learned anything, beats."
        ),
        body=body,
    )


def _first_player(results: list[Result]) -> Markup | None:
    if not any(key.startswith("p0_") for result in results for key in result.metrics):
        return None
    caption = "Player 0 (the lower port) alone, as some older results are given. ★ marks the best of each column."
    return tag(
        "details",
        tag("summary", "The same for player 0 alone"),
        _metric_table(results, caption, "p0_", HEADLINE_METRICS),
    )


def _metric_table(results: list[Result], caption: str, prefix: str, metrics: tuple[Metric, ...]) -> Markup:
    columns = [_column(results, metric, prefix + metric.key) for metric in metrics]
    rows = [[_row_name(result), *(column[i] for column in columns)] for i, result in enumerate(results)]
    headings: list[Child] = [hidden("Predictor")]
    headings += [join(term(metric), small(f"{metric.unit}, {metric.direction}")) for metric in metrics]
    return table(caption, headings, rows, class_="metrics", label="Metrics of the model and the baselines")


def _row_name(result: Result) -> Markup:
    if result.is_model:
        return join(tag("strong", "Model"), small(context_text(result.context)))
    return join(result.name, small("baseline"))


def _column(results: list[Result], metric: Metric, key: str) -> list[Markup]:
    leader = best(results, metric, key)
    leading = leader.estimate(key).value if leader else None
    return [_cell(result, metric, key, leading) for result in results]


def _cell(result: Result, metric: Metric, key: str, leading: float | None) -> Markup:
    estimate = result.estimate(key)
    shown = metric.shown(estimate.value)
    if leading is not None and estimate.value == leading:
        shown = tag("strong", tag("span", "★ ", aria_hidden="true"), shown, hidden(" (best)"), class_="best")
    if estimate.interval is None:
        return shown
    low, high = estimate.interval
    return join(shown, small(metric.shown_interval(low, high)))


def context_section(results: list[Result]) -> Section | None:
    """What the model gains from seeing more of the past; None if it was judged at one context only."""
    models = [result for result in results if result.is_model]
    if len(models) < 2:
        return None
    charts = [_context_chart(metric, models, results) for metric in METRICS]
    return Section(
        key="context",
        heading="How much past it needs",
        sentence=(
            "The same model, allowed to see more and more of the past (60 frames are one second): good is a line that "
            "gets better to the right, and where it levels off more context no longer helps; bad is getting worse."
        ),
        body=tag("div", [chart for chart in charts if chart is not None], class_="charts"),
    )


def _context_chart(metric: Metric, models: list[Result], results: list[Result]) -> Markup | None:
    points = []
    for result in models:
        value = number(result.estimate(metric.key).value)
        if value is not None:
            points.append((str(result.context), value, result.estimate(metric.key).interval))
    if not points:
        return None
    text = ChartText(
        key=f"context-{metric.key}",
        title=f"{metric.key} by context",
        description=" ".join(f"{name}: {metric.text(value)}." for name, value, _ in points),
        y_unit=f"{metric.key}, {metric.unit}",
        x_unit="context K, frames",
        show=metric.text,
    )
    chart = category_chart(text, points, baseline_reference(metric, results), is_share=metric.is_share)
    caption = join(tag("strong", metric.title), " ", term(metric), f": {metric.direction}.")
    return tag("figure", tag("figcaption", caption), chart)
