"""The charts that compare settings: true to their numbers, and safe with any name and any missing value."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from wm.report.charts import LIGHT, PALETTE, Axis, Category, Estimate
from wm.report.comparison_charts import (
    CostPoint,
    ForestRow,
    cost_and_quality,
    curves_with_bands,
    forest,
    lines_over_points,
)
from wm.report.page import Chart

K, ACC, MS = Axis(title="K"), Axis(title="change_acc"), Axis(title="ms a frame")
HOSTILE = '<a href="https://evil.example">x</a>'


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.1, high=value + 0.1)


def traces(figure: Any) -> list[Any]:
    return list(figure.data)


def test_curves_share_the_positions_of_their_categories_and_a_band_goes_around_both_ends():
    groups = {
        "small": [Category(name="1", estimate=estimate(0.5)), Category(name="60", estimate=estimate(0.6))],
        "medium": [Category(name="60", estimate=estimate(0.7)), Category(name="1", estimate=Estimate())],
    }
    band, small, medium = traces(curves_with_bands(groups, x=K, y=ACC))
    assert list(band.x) == [0, 1, 1, 0]
    assert list(band.y) == pytest.approx([0.6, 0.7, 0.5, 0.4])
    assert (list(small.x), list(small.y)) == ([0, 1], [0.5, 0.6])
    assert (list(medium.x), list(medium.y)) == ([1], [0.7])
    assert list(medium.error_y.array) == pytest.approx([0.1])


def test_a_forest_shows_every_row_in_order_zero_and_the_threshold_inside_its_axis():
    rows = [ForestRow(name=f"K = {k}", estimate=estimate(k / 100), tone="good") for k in (1, 2, 3)]
    figure = forest([*rows, ForestRow(name="worse", estimate=estimate(0.2), tone="bad")], value=ACC, threshold=0.5)
    good, bad = traces(figure)
    assert (list(good.y), list(bad.y)) == ([0, 1, 2], [3])
    assert good.marker.color != bad.marker.color
    assert list(figure.layout.yaxis.ticktext) == ["K = 1", "K = 2", "K = 3", "worse"]
    low, high = figure.layout.xaxis.range
    assert low < -0.1 and high > 0.5
    assert {line.x0 for line in figure.layout.shapes} == {0, 0.5}


def test_the_front_is_a_line_of_steps_through_its_points_in_the_order_of_their_costs():
    points = [(3.0, 0.9, True), (1.0, 0.5, True), (2.0, 0.4, False)]
    group = [
        CostPoint(name=str(c), cost=c, estimate=estimate(q), is_on_front=on, label="*" * on) for c, q, on in points
    ]
    figure = cost_and_quality({"medium": group}, cost=MS, quality=ACC, higher_is_better=True)
    steps, medium = traces(figure)
    assert (list(steps.x), list(steps.y)) == ([1.0, 3.0, 3.0], [0.5, 0.9, 0.9])
    assert list(medium.x) == [3.0, 1.0, 2.0] and list(medium.text) == ["*", "*", ""]
    low, high = figure.layout.xaxis.range
    assert 10**low < 1.0 and 10**high > 3.0
    assert list(figure.layout.xaxis.ticktext) == ["1", "2"]


def test_a_fitted_line_has_the_color_of_its_points():
    points = {"1 M": [(1e5, 0.5), (1e6, 0.4)], "4 M": [(1e6, 0.3)]}
    line, first, second = traces(lines_over_points(points, {"1 M": [(1e5, 0.5), (1e6, 0.4)]}, x=K, y=ACC))
    assert line.line.color == first.marker.color != second.marker.color


def test_names_are_literal_values_that_are_missing_are_left_out_and_all_colors_have_dark_ones():
    missing = Estimate(value=math.nan, low=None, high=None)
    figures = [
        curves_with_bands({HOSTILE: [Category(name=HOSTILE, estimate=missing)]}, x=K, y=ACC),
        forest([ForestRow(name=HOSTILE, estimate=missing), ForestRow(name="x", estimate=estimate(0.1))], value=ACC),
        forest([], value=ACC),
        cost_and_quality({HOSTILE: []}, cost=MS, quality=ACC, higher_is_better=False),
        lines_over_points({HOSTILE: []}, {}, x=K, y=ACC),
    ]
    for number, figure in enumerate(figures):
        text = figure.to_json()
        assert "<a " not in text and "\\u003ca " not in text
        assert "NaN" not in text
        colors = {word for word in json.dumps(json.loads(text)).split('"') if word.startswith("#")}
        assert colors <= set(LIGHT.values())
        assert Chart(key=f"chart-{number}", title="A chart", figure=figure).description.startswith("A chart.")
    assert {light for light, _ in PALETTE.values()} == set(LIGHT.values())
