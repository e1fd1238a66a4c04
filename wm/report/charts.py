"""The project's charts, as Plotly figures. They take plain numbers and know nothing of runs, sweeps or corpora.

learning_curve          a value over training progress: raw points faint, smoothed lines in front
points_with_intervals   a value by category or setting, with confidence intervals, beside baselines
bars_with_intervals     horizontal bars by category, with confidence intervals and a baseline mark on each bar

Values that are None or not finite are left out. Names are plain text: Plotly's markup (`<b>`, `<a>`) has no effect
in them. Figures use the light colors of `PALETTE`; a page in dark mode replaces each by its dark counterpart.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from wm.report.numbers import Kind, finite, format_value

PALETTE: dict[str, tuple[str, str]] = {
    "text": ("#1c2328", "#e8ebec"),
    "muted": ("#5a646c", "#a3adb4"),
    "grid": ("#e4e6e9", "#2f383e"),
    "card": ("#fefefe", "#1a2126"),
    "model": ("#0072b2", "#56b4e9"),
    "baseline": ("#c8500a", "#f0a04b"),
    "series-2": ("#00856a", "#2cc49b"),
    "series-3": ("#a8477f", "#e09ac4"),
    "series-4": ("#8a6d00", "#e3cf4a"),
    "series-5": ("#545c62", "#b9c1c6"),
    "series-6": ("#5b4bb5", "#a79df0"),
}
"""Role -> (light, dark), after the color-blind-safe palette of Okabe and Ito (2008). The light colors are distinct."""
LIGHT = {role: light for role, (light, _) in PALETTE.items()}
SERIES_COLORS = tuple(LIGHT[role] for role in ("model", "series-2", "series-3", "series-4", "series-5", "series-6"))
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, Arial, "DejaVu Sans", sans-serif'
LOG_RATIO = 12
"""Positive amounts whose largest is this many times their smallest get a logarithmic axis."""
MAX_POINTS = 600
"""Points of one line; longer ones are thinned."""
MAX_NAME_CHARS = 48
HEIGHT_PX, BAR_HEIGHT_PX = 300, 26
"""Of a chart with a vertical value axis, and of one horizontal bar."""

Points = Sequence[tuple[float, float]]
"""(x, y), x increasing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What an axis shows."""

    title: str
    """With the unit, e.g. `position error, game units`."""
    kind: Kind = "amount"
    """A share of 1 is written in percent, a count as a whole number."""

    def format(self, value: float | None) -> str:
        """A value of this axis as text."""
        return format_value(value, self.kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its 95% confidence interval, in the units of its axis; None where there is no data."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, or None if either is missing."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def overlaps(self, other: Estimate) -> bool:
        """Whether both have intervals, and these have a value in common."""
        if self.interval is None or other.interval is None:
            return False
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """A position of `points_with_intervals`, a bar of `bars_with_intervals`, or a baseline of either."""

    name: str
    estimate: Estimate
    detail: str = ""
    """More for the hover text, e.g. `1,203 frames`."""
    baseline: float | None = None
    """Reference value, marked on the bar."""
    is_worse: bool = False
    """Draw the bar hatched, since its baseline is better."""
    is_baseline: bool = False
    """Draw the bar in the color of baselines."""
    text: str | None = None
    """Beside the bar; by default the value."""


def learning_curve(
    lines: Mapping[str, Points], *, x: Axis, y: Axis, baselines: Sequence[Category] = (), smooth: bool = False
) -> go.Figure:
    """Lines by name over training progress.

    Args:
        smooth: draw the points faint and a rolling mean (see `smoothed`) in front; otherwise join the points.
    """
    figure = new_figure(HEIGHT_PX)
    for i, (name, all_points) in enumerate(lines.items()):
        points = [point for point in all_points if finite(point[1]) is not None]
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        options: dict[str, Any] = {"line": {"color": color, "width": 2.5}, "mode": "lines+markers", "cliponaxis": False}
        options["marker"] = {"color": color, "size": 7, "symbol": MARKERS[i % len(MARKERS)]}
        if smooth:
            faint = {"mode": "markers", "opacity": 0.4, "marker": {"color": color, "size": 5}}
            figure.add_trace(_line(f"{name}, as logged", points, x, y, **faint))
            options["mode"] = "lines" if len(points) > 1 else "markers"
            figure.add_trace(_line(f"{name}, smoothed", smoothed(points), x, y, **options))
        else:
            figure.add_trace(_line(name, points, x, y, **options))
    _add_value_axis(figure, y, [value for points in lines.values() for _, value in points], baselines)
    figure.update_xaxes(title_text=plain_text(x.title), rangemode="tozero", exponentformat="B")
    return figure.update_layout(showlegend=True)


def points_with_intervals(
    groups: Mapping[str, Sequence[Category]], *, x: Axis, y: Axis, baselines: Sequence[Category] = ()
) -> go.Figure:
    """A value by category, e.g. a metric by context length: one line by group.

    Categories are evenly spaced in the order in which they first appear; those of the same name share a position.
    """
    figure = new_figure(HEIGHT_PX)
    names = list(dict.fromkeys(category.name for group in groups.values() for category in group))
    for i, (name, group) in enumerate(groups.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        figure.add_scatter(
            **hover_texts(group, y),
            x=[names.index(category.name) for category in group],
            y=[category.estimate.value for category in group],
            error_y=error_bars(group, color),
            name=plain_text(name),
            mode="lines+markers",
            line={"color": color, "width": 1.5},
            marker={"color": color, "size": 9, "symbol": MARKERS[i % len(MARKERS)]},
        )
    _add_value_axis(figure, y, [end for group in groups.values() for c in group for end in _ends(c)], baselines)
    ticks = {"tickvals": list(range(len(names))), "ticktext": [plain_text(name) for name in names]}
    figure.update_xaxes(title_text=plain_text(x.title), range=[-0.5, len(names) - 0.5], showgrid=False, **ticks)
    return figure.update_layout(showlegend=len(groups) > 1)


def bars_with_intervals(bars: Sequence[Category], *, value: Axis) -> go.Figure:
    """Horizontal bars from zero, the first on top, each with its value, interval and baseline mark."""
    figure = new_figure(BAR_HEIGHT_PX * len(bars) + (50 if value.title else 30))
    rows = list(range(len(bars)))
    pattern = {"shape": ["/" if bar.is_worse else "" for bar in bars], "size": 6, "fgcolor": LIGHT["card"]}
    colors = [LIGHT["baseline" if bar.is_baseline else "model"] for bar in bars]
    opacities = [0.65 if bar.is_baseline else 1.0 for bar in bars]
    figure.add_bar(
        **hover_texts(bars, value),
        x=[bar.estimate.value for bar in bars],
        y=rows,
        error_x=error_bars(bars, LIGHT["text"]),
        orientation="h",
        width=0.62,
        marker={"color": colors, "opacity": opacities, "cornerradius": 2, "pattern": pattern},
    )
    if any(bar.baseline is not None for bar in bars):
        line = {"width": 3, "color": LIGHT["baseline"]}
        marker = {"symbol": "line-ns", "size": 17, "line": line}
        figure.add_scatter(
            **hover_texts(bars, value), x=[b.baseline for b in bars], y=rows, mode="markers", marker=marker
        )
    texts = [plain_text(bar.text or value.format(bar.estimate.value)) for bar in bars]
    for row, text in zip(rows, texts, strict=True):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", xshift=8, y=row, text=text, showarrow=False, font_color=LIGHT["text"]
        )
    figure.update_xaxes(title_text=plain_text(value.title), rangemode="tozero", nticks=5)
    if value.kind == "share":
        figure.update_xaxes(tickformat="~%", range=[0, 1])
    names = [plain_text(bar.name) for bar in bars]
    figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(bars) - 0.5, -0.5], showgrid=False)
    return figure.update_layout(showlegend=False, margin={"r": 16 + 8 * max(map(len, texts), default=0), "t": 4})


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Centered rolling mean over at most a tenth of the points.

    Unlike an exponential moving average it does not lag behind a falling curve. The window narrows towards both ends,
    and covers at most half of the points before its end, so that it does not flatten a steep start.
    """
    half, last = max(1, len(points) // 20), len(points) - 1
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    reaches = [min(half, (i + 1) // 3, last - i) for i in range(len(points))]
    return [(points[i][0], (sums[i + r + 1] - sums[i - r]) / (2 * r + 1)) for i, r in enumerate(reaches)]


def thinned(points: Points, max_points: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `max_points` of the points, in order: the smallest and the largest of each group of neighbors."""
    if len(points) <= max_points:
        return list(points)
    size = -(-2 * len(points) // max_points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [p for group in groups for p in sorted({f(group, key=lambda point: point[1]) for f in (min, max)})]


def plain_text(text: str, max_chars: int = MAX_NAME_CHARS) -> str:
    """A name as Plotly shows it literally, cut to a number of characters."""
    return html.escape(text if len(text) <= max_chars else text[: max_chars - 1] + "…", quote=False)


def new_figure(height: int) -> go.Figure:
    """An empty figure in the style of all charts."""
    axis = {"gridcolor": LIGHT["grid"], "zeroline": False, "automargin": True, "fixedrange": True}
    axis |= {"ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)", "tickfont_color": LIGHT["muted"]}
    axis |= {"title_font": {"size": 12, "color": LIGHT["muted"]}, "title_standoff": 8}
    template = go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12.5, "color": LIGHT["text"]},
            "xaxis": axis,
            "yaxis": axis,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {"bgcolor": LIGHT["card"], "font": {"family": FONT, "color": LIGHT["text"]}, "align": "left"},
            "hovermode": "closest",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        }
    )
    return go.Figure(layout={"template": template, "height": height, "margin": {"l": 8, "r": 12, "t": 8, "b": 8}})


def _line(name: str, points: Points, x: Axis, y: Axis, **options: Any) -> go.Scatter:
    xs, values = zip(*thinned(points), strict=True) if points else ((), ())
    text = f"{plain_text(name)}: %{{customdata}}<br>%{{x:,.0f}} {plain_text(x.title)}<extra></extra>"
    formatted = [y.format(value) for value in values]
    return go.Scatter(x=xs, y=values, name=plain_text(name), customdata=formatted, hovertemplate=text, **options)


def _add_value_axis(figure: go.Figure, axis: Axis, values: Iterable[float], baselines: Sequence[Category]) -> None:
    """The vertical axis, and the baselines as dashed lines with their intervals as bands."""
    known = [value for value in values if finite(value) is not None] + [end for b in baselines for end in _ends(b)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    is_log = axis.kind != "share" and low > 0 and high / low >= LOG_RATIO
    figure.update_yaxes(title_text=plain_text(axis.title), nticks=6)
    if axis.kind == "share":
        pad, beyond = 0.06 * (high - low) or 0.02, 0.02 * (high - low)
        figure.update_yaxes(tickformat="~%", range=[max(-beyond, low - pad), min(1 + beyond, high + pad)])
    if is_log:
        ticks = [digit * 10.0**power for power in range(-12, 13) for digit in (1, 2, 5)]
        figure.update_yaxes(type="log", tickvals=ticks, title_text=f"{plain_text(axis.title)} (log scale)")
    for baseline in baselines:
        if (value := finite(baseline.estimate.value)) is not None:
            _add_baseline(figure, baseline, axis, value, low, high, is_log=is_log)


def _add_baseline(
    figure: go.Figure, baseline: Category, axis: Axis, value: float, low: float, high: float, *, is_log: bool
) -> None:
    """Its label is at the right end, or at the left end where the first line ends close to it."""
    color = LIGHT["baseline"]
    if interval := baseline.estimate.interval:
        figure.add_hrect(*interval, fillcolor=color, opacity=0.14, line_width=0, layer="below")
    figure.add_hline(value, line={"color": color, "width": 2, "dash": "dash"})
    traces: Any = figure.data
    ends = [trace.y[-1] for trace in traces[:1] if trace.y and finite(trace.y[-1]) is not None]
    side = "left" if any(abs(end - value) < 0.15 * (high - low) for end in ends) else "right"
    figure.add_annotation(
        text=f"{plain_text(baseline.name)}: {axis.format(value)}",
        font_color=color,
        showarrow=False,
        x=0 if side == "left" else 1,
        xref="paper",
        xanchor=side,
        y=math.log10(value) if is_log else value,
        yanchor="top" if value > low + 0.75 * (high - low) else "bottom",
    )


def error_bars(categories: Sequence[Category], color: str) -> dict[str, Any]:
    """The intervals of categories for a trace."""
    above: list[float | None] = []
    below: list[float | None] = []
    for value, low, high in ((c.estimate.value, c.estimate.low, c.estimate.high) for c in categories):
        above.append(None if value is None or high is None else high - value)
        below.append(None if value is None or low is None else value - low)
    return {"type": "data", "array": above, "arrayminus": below, "color": color, "thickness": 1.5, "width": 4}


def hover_texts(categories: Sequence[Category], axis: Axis) -> dict[str, Any]:
    """One text for each category: value, interval, baseline, detail."""
    texts = []
    for category in categories:
        lines = [f"{plain_text(category.name)}: {axis.format(category.estimate.value)}"]
        if category.estimate.interval is not None:
            lines.append("95% interval {} to {}".format(*map(axis.format, category.estimate.interval)))
        if category.baseline is not None:
            lines.append(f"baseline {axis.format(category.baseline)}{', better' if category.is_worse else ''}")
        texts.append("<br>".join([*lines, plain_text(category.detail)] if category.detail else lines))
    return {"customdata": texts, "hovertemplate": "%{customdata}<extra></extra>"}


def _ends(category: Category) -> list[float]:
    estimate = category.estimate
    ends = (finite(end) for end in (estimate.value, estimate.low, estimate.high))
    return [end for end in ends if end is not None]
