"""The charts: true to their numbers, readable in light and dark, and safe with any name and any missing value."""

from __future__ import annotations

import json
import math

import pytest

from datasets.runtime.text_format import format_duration
from wm.report.charts import (
    MAX_POINTS,
    PALETTE,
    Axis,
    Category,
    Estimate,
    bars_with_intervals,
    learning_curve,
    points_with_intervals,
    smoothed,
    thinned,
)
from wm.report.numbers import format_count, format_value

TARGETS, LOSS, SHARE = Axis(title="targets seen"), Axis(title="loss"), Axis(title="accuracy", kind="share")
HOSTILE = '<a href="https://evil.example">x</a>'


def category(name: str, value: float | None = 0.5, width: float = 0.1, **options) -> Category:
    estimate = Estimate() if value is None else Estimate(value=value, low=value - width, high=value + width)
    return Category(name=name, estimate=estimate, **options)


def test_a_smoothed_line_keeps_a_straight_line_and_both_ends():
    points = [(float(x), 3.0 - 0.5 * x) for x in range(200)]
    line = smoothed(points)
    assert [x for x, _ in line] == [x for x, _ in points]
    assert [y for _, y in line] == pytest.approx([y for _, y in points])


def test_a_smoothed_line_has_less_noise():
    points = [(float(x), float(x % 2)) for x in range(400)]
    assert all(0.4 < y < 0.6 for _, y in smoothed(points)[20:-20])


@pytest.mark.parametrize("num_points", [0, 1, 2, 3])
def test_few_points_can_be_smoothed(num_points):
    points = [(float(x), 2.0) for x in range(num_points)]
    assert smoothed(points) == points


def test_a_long_series_is_thinned_without_losing_its_extremes():
    points = [(float(i), float(i % 7)) for i in range(10_000)]
    kept = thinned(points)
    assert len(kept) <= MAX_POINTS
    assert kept == sorted(kept)
    assert {y for _, y in kept} >= {0.0, 6.0}


def test_a_smoothed_curve_shows_the_raw_points_faint_behind_the_line():
    figure = learning_curve({"loss": [(1, 4.0), (2, 2.0), (3, 3.0)]}, x=TARGETS, y=LOSS, smooth=True)
    raw, line = figure.data
    assert raw.mode == "markers" and raw.opacity < 0.5 and list(raw.y) == [4.0, 2.0, 3.0]
    assert line.mode == "lines" and list(line.y) == [4.0, 2.0, 3.0]


def test_a_single_point_is_visible():
    figure = learning_curve({"loss": [(1, 4.0)]}, x=TARGETS, y=LOSS, smooth=True)
    assert all("markers" in trace.mode for trace in figure.data)


def test_a_wide_range_of_amounts_gets_a_logarithmic_axis_and_shares_never_do():
    wide = [(1, 0.001), (2, 0.9)]
    assert learning_curve({"loss": wide}, x=TARGETS, y=LOSS).layout.yaxis.type == "log"
    assert learning_curve({"accuracy": wide}, x=TARGETS, y=SHARE).layout.yaxis.type is None


def test_shares_stay_between_0_and_100_percent():
    figure = learning_curve({"a": [(1, 0.0), (2, 1.0)]}, x=TARGETS, y=SHARE, baselines=[category("rule", 0.9)])
    assert figure.layout.yaxis.range == (-0.02, 1.02)  # so that lines at both ends are not cut


def test_a_baseline_is_a_dashed_line_with_its_interval_as_a_band():
    figure = learning_curve({"a": [(1, 0.2)]}, x=TARGETS, y=SHARE, baselines=[category("rule", 0.3)])
    band, line = figure.layout.shapes
    assert (band.y0, band.y1) == pytest.approx((0.2, 0.4))
    assert line.line.dash == "dash" and line.y0 == 0.3
    assert figure.layout.annotations[0].text == "rule: 30.0%"


def test_intervals_are_drawn_around_points_and_bars():
    points = points_with_intervals({"model": [category("10"), category("60", None)]}, x=TARGETS, y=SHARE).data[0]
    bars = bars_with_intervals([category("Fox"), category("Marth", None)], value=SHARE).data[0]
    for errors in (points.error_y, bars.error_x):
        for lengths in (errors.array, errors.arrayminus):
            assert lengths[0] == pytest.approx(0.1) and lengths[1] is None


def test_groups_share_the_positions_of_equal_names():
    groups = {"small": [category("10"), category("60")], "large": [category("60"), category("120")]}
    figure = points_with_intervals(groups, x=TARGETS, y=SHARE)
    assert [trace.x for trace in figure.data] == [(0, 1), (1, 2)]
    assert figure.layout.xaxis.ticktext == ("10", "60", "120")


def test_a_bar_below_its_baseline_is_hatched_and_every_value_is_written_beside_its_bar():
    figure = bars_with_intervals([category("Fox", 0.5, baseline=0.6, is_worse=True), category("Marth")], value=SHARE)
    assert figure.data[0].marker.pattern.shape == ("/", "")
    assert list(figure.data[1].x) == [0.6, None]
    assert [note.text for note in figure.layout.annotations] == ["50.0%", "50.0%"]


def test_the_hover_text_has_value_interval_baseline_and_detail():
    figure = bars_with_intervals([category("Fox", 0.5, baseline=0.6, detail="120 games")], value=SHARE)
    assert figure.data[0].customdata[0] == "Fox: 50.0%<br>95% interval 40.0% to 60.0%<br>baseline 60.0%<br>120 games"


def test_a_point_that_is_not_finite_is_left_out_of_the_smoothed_line():
    figure = learning_curve({"loss": [(1, 4.0), (2, math.nan), (3, 4.0)]}, x=TARGETS, y=LOSS, smooth=True)
    assert all(list(trace.x) == [1, 3] and list(trace.y) == [4.0, 4.0] for trace in figure.data)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_missing_values_leave_gaps_and_valid_json(value):
    estimate = Estimate(value=value, low=value, high=value)
    bad = Category(name="bad", estimate=estimate, baseline=value)
    for figure in (
        learning_curve({"loss": [(1, 2.0), (2, math.nan)]}, x=TARGETS, y=LOSS, baselines=[bad], smooth=True),
        points_with_intervals({"model": [category("10"), bad]}, x=TARGETS, y=LOSS, baselines=[bad]),
        bars_with_intervals([category("Fox"), bad], value=LOSS),
        bars_with_intervals([bad], value=SHARE),
        learning_curve({}, x=TARGETS, y=LOSS),
        points_with_intervals({}, x=TARGETS, y=LOSS),
        bars_with_intervals([], value=LOSS),
    ):
        json.loads(figure.to_json(), parse_constant=pytest.fail)


def test_names_are_plain_text_in_every_part_of_a_chart():
    bars = [category(HOSTILE, detail=HOSTILE)]
    for figure in (
        learning_curve({HOSTILE: [(1, 2.0)]}, x=Axis(title=HOSTILE), y=Axis(title=HOSTILE), baselines=bars),
        points_with_intervals({HOSTILE: bars}, x=Axis(title=HOSTILE), y=Axis(title=HOSTILE), baselines=bars),
        bars_with_intervals(bars, value=Axis(title=HOSTILE)),
    ):
        assert "<a" not in figure.to_json()
        assert "&lt;a" in figure.to_json()


def test_every_color_of_a_chart_has_a_dark_counterpart():
    groups = {str(i): [category("10")] for i in range(8)}
    figure = points_with_intervals(groups, x=TARGETS, y=SHARE, baselines=[category("rule")])
    used = {text for text in json.dumps(figure.to_plotly_json()).split('"') if text.startswith("#")}
    assert used and used <= {light for light, _ in PALETTE.values()}
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_numbers_read_well():
    assert [format_value(v, "share") for v in (0.7123, 1.0)] == ["71.2%", "100.0%"]
    assert [format_value(v) for v in (0.0, 0.1234, 0.00045, 12345.6)] == ["0.000", "0.123", "0.00045", "12,346"]
    assert [format_count(v) for v in (20_000, None, "x")] == ["20,000", "–", "–"]
    assert [format_duration(v) for v in (90, 600, 9_000)] == ["90 s", "10 min", "2.5 h"]
