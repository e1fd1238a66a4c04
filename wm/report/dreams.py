"""The part of a run's page that is about dreams: the JSON data of `wm.rollout.judge.judge` as tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from wm.report.charts import HEIGHT_PX, LIGHT, SERIES_COLORS, Axis, Estimate, new_figure, plain_text
from wm.report.comparison_charts import BAND_OPACITY
from wm.report.numbers import finite
from wm.report.page import Chart

MIN_HORIZON = 5
"""Frames; the first horizon of the table."""
POSITION, SHARE, PERCENT = (
    Axis(title="position error, game units"),
    Axis(title="share of actions right", kind="share"),
    Axis(title="error of the percent"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamColumn:
    """A metric of the tables."""

    key: str
    heading: str
    axis: Axis
    sign: int
    """+1 if higher values are better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamRow:
    """A predictor, or dreams with an event."""

    name: str
    detail: str
    is_model: bool
    estimates: dict[str, Estimate]
    """By the key of a column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamReport:
    """Everything that the section shows."""

    lead: str
    horizons: tuple[DreamColumn, ...]
    at_end: tuple[DreamColumn, ...]
    predictors: tuple[DreamRow, ...]
    event_columns: tuple[DreamColumn, ...]
    events: tuple[DreamRow, ...]
    deaths: str
    charts: tuple[Chart, ...]

    def is_best(self, column: DreamColumn, row: DreamRow) -> bool:
        """Whether no predictor has a better value."""
        values = [other.estimates[column.key].value for other in self.predictors]
        mine, known = row.estimates[column.key].value, [value for value in values if value is not None]
        return mine is not None and mine == (max if column.sign > 0 else min)(known)


def dream_report(coherence: Mapping[str, Any] | None) -> DreamReport | None:
    """The section of an evaluation's coherence; None without one."""
    if not coherence:
        return None
    last = int(coherence["num_frames"])
    named = sorted(int(key.removeprefix("coherence_")) for key in coherence if key.startswith("coherence_"))
    horizons = [frames for frames in named if frames >= MIN_HORIZON] or named
    columns = tuple(_column(f"coherence_{n}", f"frames 1 to {n}", POSITION, -1) for n in horizons)
    at_end = _columns_at_end(horizons[-1])
    predictors = {"model": coherence, **coherence["baselines"]}
    event_columns = (
        _column(f"coherence_{last}", "Position error", POSITION, -1),
        _column(f"action_acc_to_{last}", "Actions right", SHARE, 1),
        _column(f"percent_{last}", "Percent error", PERCENT, -1),
    )
    return DreamReport(
        lead=_lead(coherence),
        horizons=columns,
        at_end=at_end,
        predictors=tuple(
            _row(name, "" if name == "model" else "baseline", found, (*columns, *at_end))
            for name, found in predictors.items()
        ),
        event_columns=event_columns,
        events=tuple(
            _row(name, f"{row['num_starts']:,} dreams, {row['share_of_error']:.0%} of the error", row, event_columns)
            for name, row in coherence["events"].items()
        ),
        deaths=_deaths(coherence),
        charts=_charts(predictors),
    )


def _columns_at_end(horizon: int) -> tuple[DreamColumn, ...]:
    return (
        _column(f"position_{horizon}", "Position error", POSITION, -1),
        _column(f"action_acc_{horizon}", "Actions right", SHARE, 1),
        _column(f"percent_{horizon}", f"Percent error, frames 1 to {horizon}", PERCENT, -1),
        _column(f"possible_{horizon}", "Dreams that stay possible", SHARE, 1),
    )


def _column(key: str, heading: str, axis: Axis, sign: int) -> DreamColumn:
    return DreamColumn(key=key, heading=heading, axis=axis, sign=sign)


def _row(name: str, detail: str, found: Mapping[str, Any], columns: Sequence[DreamColumn]) -> DreamRow:
    estimates = {column.key: _estimate(found, column.key) for column in columns}
    return DreamRow(name=name, detail=detail, is_model=name == "model", estimates=estimates)


def _estimate(found: Mapping[str, Any], key: str) -> Estimate:
    low, high = (found.get("intervals") or {}).get(key) or (None, None)
    return Estimate(value=finite(found.get(key)), low=finite(low), high=finite(high))


def _lead(coherence: Mapping[str, Any]) -> str:
    rule = "" if coherence["rule"] == "ours" else " Only some fields are fed back, as in the published evaluation."
    return (
        f"The model plays on by itself from {coherence['num_starts']:,} moments of {coherence['num_games']:,} games: "
        f"it sees {coherence['num_context']} true frames, then only its own frames and the true controllers. The "
        "error is the mean distance from the truth, over both players and both axes. A model that is worse than "
        f"standing still has learned nothing useful about motion.{rule}"
    )


def _deaths(coherence: Mapping[str, Any]) -> str:
    right, phantom = finite(coherence.get("deaths_right")), finite(coherence.get("phantom_deaths"))
    within = f"within {coherence['num_frames']} frames"
    if right is None and phantom is None:
        return ""
    if right is None:
        return f"No player truly loses a stock {within}; {phantom:.1%} do in the dream alone."
    if phantom is None:
        return f"Every player truly loses a stock {within}; {right:.0%} lose as many in the dream."
    return (
        f"Of the players who lose a stock {within}, {right:.0%} lose it in the dream; "
        f"of the others, {phantom:.1%} die in the dream alone."
    )


def _charts(predictors: Mapping[str, Mapping[str, Any]]) -> tuple[Chart, ...]:
    curves = {name: found["curves"] for name, found in predictors.items() if found.get("curves")}
    position = _curves(curves, "position", POSITION)
    actions = _curves(curves, "action_acc", SHARE)
    return (
        Chart(key="dreams-position", title="Position error by frame", note="lower is better", figure=position),
        Chart(key="dreams-actions", title="Actions right by frame", note="higher is better", figure=actions),
    )


def _curves(curves: Mapping[str, Mapping[str, Sequence[float]]], key: str, y: Axis) -> go.Figure:
    """A line for each predictor over the frames of the dream; the first has its interval as a band, if it is known."""
    figure = new_figure(HEIGHT_PX)
    colors = (LIGHT["model"], LIGHT["baseline"], *SERIES_COLORS[1:])
    for number, (name, found) in enumerate(curves.items()):
        color, frames = colors[number % len(colors)], list(range(1, len(found[key]) + 1))
        low, high = found.get(f"{key}_low"), found.get(f"{key}_high")
        if not number and low and high:
            figure.add_scatter(
                x=frames + frames[::-1], y=[*high, *reversed(low)], fill="toself", fillcolor=color,
                opacity=BAND_OPACITY, line_width=0, mode="lines", hoverinfo="skip", showlegend=False,
            )  # fmt: skip
        figure.add_scatter(
            x=frames,
            y=list(found[key]),
            mode="lines",
            name=plain_text(name),
            line={"color": color, "width": 2.5 if not number else 1.8, "dash": "solid" if not number else "dash"},
            customdata=[f"frame {n}: {y.format(v)}" for n, v in zip(frames, found[key], strict=True)],
            hovertemplate=f"{plain_text(name)}, %{{customdata}}<extra></extra>",
        )
    figure.update_yaxes(title_text=plain_text(y.title), rangemode="tozero", nticks=6)
    if y.kind == "share":
        figure.update_yaxes(tickformat="~%", range=[0, 1.02])
    figure.update_xaxes(title_text="frames after the start (60 are one second)")
    return figure.update_layout(showlegend=True)
