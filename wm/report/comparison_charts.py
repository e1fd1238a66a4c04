"""Charts that compare settings, as Plotly figures; see `wm.report.charts` for their style and for what they leave out.

curves_with_bands   a value by category with the interval of each curve as a band
forest              differences with intervals, beside zero and a threshold
cost_and_quality    settings by cost and quality, with the Pareto front as a line
lines_over_points   measured points and fitted lines, both axes logarithmic
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from wm.report.charts import (
    BAR_HEIGHT_PX,
    HEIGHT_PX,
    LIGHT,
    MARKERS,
    SERIES_COLORS,
    Axis,
    Category,
    Estimate,
    Points,
    error_bars,
    hover_texts,
    new_figure,
    plain_text,
)
from wm.report.numbers import finite

TONES = {"good": LIGHT["series-2"], "bad": LIGHT["baseline"], "unclear": LIGHT["series-5"], "neutral": LIGHT["model"]}
BAND_OPACITY = 0.15
MAX_ROW_NAME_CHARS = 22
"""Of a forest plot, which must leave room for the intervals on a phone."""
SI_PREFIXES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
COST_PAD = 1.25
"""Room beside the cheapest and the dearest point, as a factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """A difference of `forest`."""

    name: str
    estimate: Estimate
    tone: str = "neutral"
    """A key of TONES."""
    detail: str = ""
    """More for the hover text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostPoint:
    """A setting of `cost_and_quality`."""

    name: str
    cost: float
    """Positive."""
    estimate: Estimate
    is_on_front: bool = False
    label: str = ""
    """Beside the point."""


def curves_with_bands(groups: Mapping[str, Sequence[Category]], *, x: Axis, y: Axis) -> go.Figure:
    """A value by category, one curve by group; categories are evenly spaced in the order in which they first appear."""
    figure = new_figure(HEIGHT_PX + 60)
    names = list(dict.fromkeys(category.name for group in groups.values() for category in group))
    for i, (name, group) in enumerate(groups.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        known = sorted((c for c in group if finite(c.estimate.value) is not None), key=lambda c: names.index(c.name))
        xs = [names.index(category.name) for category in known]
        if len(known) > 1 and all(category.estimate.interval for category in known):
            outline = [c.estimate.high for c in known] + [c.estimate.low for c in reversed(known)]
            figure.add_scatter(
                x=xs + xs[::-1], y=outline, fill="toself", fillcolor=color, opacity=BAND_OPACITY, line_width=0,
                mode="lines", hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        figure.add_scatter(
            **hover_texts(known, y),
            x=xs,
            y=[category.estimate.value for category in known],
            error_y=error_bars(known, color) if len(known) == 1 else None,
            name=plain_text(name),
            mode="lines+markers",
            line={"color": color, "width": 2},
            marker={"color": color, "size": 8, "symbol": MARKERS[i % len(MARKERS)]},
        )
    figure.update_yaxes(title_text=plain_text(y.title), nticks=6)
    ticks = {"tickvals": list(range(len(names))), "ticktext": [plain_text(name) for name in names]}
    figure.update_xaxes(title_text=plain_text(x.title), range=[-0.4, len(names) - 0.6], showgrid=False, **ticks)
    return figure.update_layout(showlegend=len(groups) > 1)


def forest(rows: Sequence[ForestRow], *, value: Axis, threshold: float | None = None) -> go.Figure:
    """Differences with their intervals, the first on top; zero is a solid line, the threshold a dashed one."""
    figure = new_figure(BAR_HEIGHT_PX * len(rows) + (70 if threshold is None else 86))
    places = list(range(len(rows)))
    for tone, color in TONES.items():
        own = [i for i in places if rows[i].tone == tone and finite(rows[i].estimate.value) is not None]
        if not own:
            continue
        parts = [Category(name=rows[i].name, estimate=rows[i].estimate, detail=rows[i].detail) for i in own]
        figure.add_scatter(
            **hover_texts(parts, value),
            x=[part.estimate.value for part in parts],
            y=own,
            error_x=error_bars(parts, color),
            mode="markers",
            marker={"color": color, "size": 9, "symbol": "square"},
        )
    figure.add_vline(0, line={"color": LIGHT["muted"], "width": 1.5}, layer="below")
    if threshold is not None:
        figure.add_vline(threshold, line={"color": LIGHT["baseline"], "width": 2, "dash": "dash"}, layer="below")
        figure.add_annotation(
            text=f"threshold {value.format(threshold)}", font_color=LIGHT["baseline"], showarrow=False,
            x=threshold, y=1, yref="paper", yanchor="bottom",
        )  # fmt: skip
    bounds = (finite(end) for row in rows for end in (row.estimate.value, row.estimate.low, row.estimate.high))
    ends = [0.0, threshold or 0.0, *(end for end in bounds if end is not None)]
    pad = 0.06 * (max(ends) - min(ends)) or 0.01
    figure.update_xaxes(title_text=plain_text(value.title), range=[min(ends) - pad, max(ends) + pad], nticks=6)
    names = [plain_text(row.name, MAX_ROW_NAME_CHARS) for row in rows]
    figure.update_yaxes(tickvals=places, ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False)
    return figure.update_layout(showlegend=False, margin={"t": 8 if threshold is None else 26})


def cost_and_quality(
    groups: Mapping[str, Sequence[CostPoint]], *, cost: Axis, quality: Axis, higher_is_better: bool
) -> go.Figure:
    """Points by group on a logarithmic axis of costs; those on the front of all groups are joined by a line."""
    figure = new_figure(HEIGHT_PX + 60)
    points = [point for group in groups.values() for point in group]
    costs = [point.cost for point in points if point.cost > 0] or [1.0]
    ends = min(costs) / COST_PAD, max(costs) * COST_PAD
    steps = sorted((point for point in points if point.is_on_front), key=lambda point: point.cost)
    if steps and points:
        figure.add_scatter(
            x=[*(point.cost for point in steps), max(costs)],
            y=[*(point.estimate.value for point in steps), steps[-1].estimate.value],
            mode="lines", line={"color": LIGHT["muted"], "width": 1.5, "shape": "hv", "dash": "dot"},
            name="Pareto front", hoverinfo="skip",
        )  # fmt: skip
    for i, (name, group) in enumerate(groups.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        parts = [
            Category(name=point.name, estimate=point.estimate, detail=f"{cost.title}: {cost.format(point.cost)}")
            for point in group
        ]
        sizes = [11 if point.is_on_front else 7 for point in group]
        figure.add_scatter(
            **hover_texts(parts, quality),
            x=[point.cost for point in group],
            y=[point.estimate.value for point in group],
            error_y=error_bars(parts, color),
            mode="markers+text",
            text=[plain_text(point.label) for point in group],
            textposition=[_label_side(point.cost, ends, higher_is_better=higher_is_better) for point in group],
            textfont={"size": 11, "color": LIGHT["muted"]},
            name=plain_text(name),
            marker={"color": color, "size": sizes, "symbol": MARKERS[i % len(MARKERS)]},
        )
    figure.update_yaxes(title_text=plain_text(quality.title), nticks=6)
    figure.update_xaxes(**_log_axis(cost, *ends))
    return figure.update_layout(showlegend=True)


def lines_over_points(points: Mapping[str, Points], lines: Mapping[str, Points], *, x: Axis, y: Axis) -> go.Figure:
    """Measured points, and the fitted line of the same name if there is one."""
    figure = new_figure(HEIGHT_PX + 60)
    for i, (name, measured) in enumerate(points.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        if line := lines.get(name, ()):
            figure.add_scatter(
                x=[a for a, _ in line], y=[b for _, b in line], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": color, "width": 1.5, "dash": "dot"},
            )  # fmt: skip
        parts = [Category(name=name, estimate=Estimate(value=b), detail=f"{a:,.0f} {x.title}") for a, b in measured]
        figure.add_scatter(
            **hover_texts(parts, y),
            x=[a for a, _ in measured], y=[b for _, b in measured], mode="markers", name=plain_text(name),
            marker={"color": color, "size": 9, "symbol": MARKERS[i % len(MARKERS)]},
        )  # fmt: skip
    xs = [a for measured in points.values() for a, _ in measured] or [1.0]
    figure.update_xaxes(**_log_axis(x, min(xs) / COST_PAD, max(xs) * COST_PAD))
    figure.update_yaxes(type="log", title_text=f"{plain_text(y.title)} (log scale)", nticks=6)
    return figure.update_layout(showlegend=True)


def _label_side(cost: float, ends: tuple[float, float], *, higher_is_better: bool) -> str:
    """Where the label of a point has room."""
    side = "left" if cost**2 > ends[0] * ends[1] else "right"
    return f"{'top' if higher_is_better else 'bottom'} {side}"


def _log_axis(axis: Axis, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with labels at 1, 2 and 5 times powers of ten, or in its middle if there are none."""
    ticks = [digit * 10.0**power for power in range(-6, 25) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high] or [math.sqrt(low * high)]
    return {
        "type": "log",
        "title_text": f"{plain_text(axis.title)} (log scale)",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [_with_prefix(tick) for tick in ticks],
    }


def _with_prefix(value: float) -> str:
    for prefix, size in SI_PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"
