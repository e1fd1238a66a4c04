"""The part of a run's page that is about dreams."""

from __future__ import annotations

import copy
from typing import Any

from report_inputs import report_inputs

from wm.report.dreams import dream_report
from wm.report.run_report import render_report

NUM_FRAMES = 20


def predictor(error: float) -> dict[str, Any]:
    """The summary of a predictor whose error grows evenly."""
    position = [error * (t + 1) / NUM_FRAMES for t in range(NUM_FRAMES)]
    values = {f"coherence_{n}": sum(position[:n]) / n for n in (1, 5, 10, 20)}
    values |= {"position_20": error, "action_acc_20": 0.5, "percent_20": 0.25, "possible_20": 0.875}
    return {
        **values,
        "deaths_right": 0.5,
        "phantom_deaths": 0.01,
        "intervals": {name: [0.9 * value, 1.1 * value] for name, value in values.items()},
        "curves": {
            "position": position,
            "position_low": [0.9 * value for value in position],
            "position_high": [1.1 * value for value in position],
            "action_acc": [0.75] * NUM_FRAMES,
            "percent": [0.1] * NUM_FRAMES,
        },
        "events": {
            "hit": {
                "num_starts": 30, "share_of_error": 0.4, "coherence_20": 3.25, "action_acc_to_20": 0.7,
                "percent_20": 0.5, "intervals": {"coherence_20": [3.0, 3.5]},
            },
        },
    }  # fmt: skip


def coherence() -> dict[str, Any]:
    """As `wm.rollout.judge.judge` returns it."""
    facts = {
        "num_starts": 300, "num_games": 42, "num_frames": NUM_FRAMES, "num_context": 60, "state": "carried",
        "rule": "ours", "seed": 42,
    }  # fmt: skip
    return facts | predictor(4.0) | {"baselines": {"stand still": predictor(6.0), "keep velocity": predictor(5.0)}}


def page(found: dict[str, Any] | None) -> str:
    inputs = report_inputs()
    evaluation = inputs["evaluation"] | ({} if found is None else {"coherence": found})
    return render_report(**(inputs | {"evaluation": evaluation}))


def test_the_page_shows_dreams_beside_the_baselines_with_intervals_and_by_event():
    text = page(coherence())
    assert '<a href="#dreams">Dreams</a>' in text and 'id="chart-dreams-position"' in text
    section = text[text.index('<section id="dreams"') : text.index('<section id="breakdown"')]
    for shown in ("stand still", "keep velocity", "frames 1 to 5", "frames 1 to 20", "300 moments of 42 games", "hit"):
        assert shown in section
    assert "30 dreams, 40% of the error" in section and "3.00" in section and "3.50" in section
    assert "Of the players who lose a stock within 20 frames, 50% lose it in the dream" in section


def test_the_best_predictor_of_each_column_is_marked():
    found = dream_report(coherence())
    assert found is not None
    best = [[row.name for row in found.predictors if found.is_best(column, row)] for column in found.horizons]
    assert best == [["model"]] * 3
    worse = dream_report(coherence() | {key: 9.0 for key in coherence() if key.startswith("coherence_")})
    assert worse is not None
    assert [row.name for row in worse.predictors if worse.is_best(worse.horizons[-1], row)] == ["keep velocity"]


def test_the_chart_has_a_line_for_each_predictor_and_the_models_interval():
    found = dream_report(coherence())
    assert found is not None
    figure: Any = found.charts[0].figure
    assert [trace.name for trace in figure.data] == [None, "model", "stand still", "keep velocity"]
    assert len(figure.data[0].x) == 2 * NUM_FRAMES
    assert list(figure.data[1].x) == list(range(1, NUM_FRAMES + 1))


def test_an_evaluation_without_dreams_has_no_such_section():
    assert 'id="dreams"' not in page(None)
    assert dream_report({}) is None


def test_a_coherence_without_intervals_of_curves_and_events_is_shown_without_them():
    older = copy.deepcopy(coherence())
    for one in (older, *older["baselines"].values()):
        del one["curves"]["position_low"], one["curves"]["position_high"]
        one["events"]["hit"].pop("intervals")
    older["deaths_right"] = None
    assert "No player truly loses a stock within 20 frames; 1.0% do in the dream alone." in page(older)
    older |= {"deaths_right": 0.5, "phantom_deaths": None}
    assert "Every player truly loses a stock within 20 frames; 50% lose as many in the dream." in page(older)
