"""Scores, influences and variances against slow twins that follow their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_sweeps import SimulatedSweep, sums_of_events

from tune.analysis.best_comparison import held_out_score, loss_intervals
from tune.analysis.paired import paired_difference, paired_differences
from tune.analysis.pairwise import compare_pairs
from tune.analysis.scores import common_games, named_sums, score_and_influence, scores_of
from wm.evaluation.game_sums import GameSums, concatenate_sums, metric_values

METRICS = ("change_acc", "action_acc", "pos_mae", "val_loss")
EVIDENCE = SimulatedSweep(
    truth=np.array([[0.6, 0.7], [0.62, 0.68]]), contexts=(5, 10), num_seeds=3, num_games=30
).evidence(np.random.default_rng(0))
SUMS = EVIDENCE[0].sums[5]
GAMES = common_games(named_sums(EVIDENCE))


def of_games(sums: GameSums, rows: np.ndarray) -> GameSums:
    """Sums of games drawn with replacement."""
    return GameSums(
        game_ids=sums.game_ids[rows],
        num_frames=sums.num_frames[rows],
        num_pairs=sums.num_pairs[rows],
        num_right=sums.num_right[rows],
        num_changes=sums.num_changes[rows],
        num_changes_right=sums.num_changes_right[rows],
        position_error=sums.position_error[rows],
        loss_totals={name: values[rows] for name, values in sums.loss_totals.items()},
        loss_counts={name: values[rows] for name, values in sums.loss_counts.items()},
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_score_is_the_metric_and_higher_is_better(metric):
    score, influence = score_and_influence(SUMS, np.arange(len(SUMS)), metric)
    value = metric_values(SUMS)[metric]
    assert score == pytest.approx(value if metric.endswith("acc") else -value, rel=1e-12)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("relative", [False, True])
def test_the_influence_of_a_game_is_the_change_of_the_score_when_it_counts_a_little_more(metric, relative):
    rows = np.arange(len(SUMS))
    score, influence = score_and_influence(SUMS, rows, metric, relative=relative)
    many = concatenate_sums([SUMS] * 1_000)
    with_one_more, _ = score_and_influence(
        concatenate_sums([many, of_games(SUMS, np.array([3]))]),
        np.arange(1_000 * len(SUMS) + 1),
        metric,
        relative=relative,
    )
    assert 1_000 * (with_one_more - score) == pytest.approx(influence[3], rel=1e-2)


def test_variances_over_games_are_those_of_a_bootstrap_that_computes_each_metric_anew():
    pairs = compare_pairs(scores_of(EVIDENCE, GAMES, "change_acc"), num_replicates=4_000, random_seed=0)
    rng = np.random.default_rng(1)
    first, second = EVIDENCE[0].sums[5], EVIDENCE[0].sums[10]
    one_seed = paired_difference(second, first)
    differences = []
    for _ in range(2_000):
        rows = rng.integers(0, 30, 30)
        values = [metric_values(of_games(sums, rows))["change_acc"] for sums in (second, first)]
        differences.append(values[0] - values[1])
    assert one_seed is not None
    assert one_seed.standard_error == pytest.approx(np.std(differences), rel=0.08)
    replicates = pairs.replicates[0] - pairs.replicates[2]
    assert replicates.std() == pytest.approx(np.sqrt(pairs.game_variance[0, 2]), rel=0.08)


def test_differences_of_pairs_are_means_over_the_common_seeds():
    """The second setting lacks a seed at K = 10: its pairs use the other two."""
    evidence = [replace(t, sums={5: t.sums[5]}) if t.trial == "trial-1-2" else t for t in EVIDENCE]
    scores = scores_of(evidence, GAMES, "change_acc")
    pairs = compare_pairs(scores, num_replicates=10, random_seed=0)
    cells = list(scores.cells)
    lacking, full = cells.index(("setting 1", 10)), cells.index(("setting 0", 10))
    assert not scores.present[lacking, 2]
    expected = (scores.values[full, :2] - scores.values[lacking, :2]).mean()
    assert pairs.difference[full, lacking] == pytest.approx(expected, rel=1e-12)
    assert pairs.num_seeds[full, lacking] == 2
    influence = (scores.influence[full, :2] - scores.influence[lacking, :2]).mean(0)
    assert pairs.game_variance[full, lacking] == pytest.approx((influence**2).sum() * 30 / 29, rel=1e-9)


def test_intervals_are_as_wide_as_foreseen_when_there_is_four_times_as_much_evidence():
    def widths(num_games: int, num_seeds: int, games: float = 1.0, seeds: float = 1.0) -> float:
        sweep = SimulatedSweep(truth=np.array([[0.6, 0.7]]), contexts=(5, 10), num_seeds=num_seeds, num_games=num_games)
        results = []
        for draw in range(30):
            scores = sweep.scores(np.random.default_rng(draw))
            pairs = compare_pairs(scores, num_replicates=200, random_seed=0).scaled(games=games, seeds=seeds)
            low, high = loss_intervals(pairs, scores.cells, 10, 0.95)[5]
            results.append(high - low)
        return float(np.mean(results))

    assert widths(50, 6, games=4.0) == pytest.approx(widths(200, 6), rel=0.1)
    assert widths(50, 6, seeds=4.0) == pytest.approx(widths(50, 24), rel=0.1)


def test_the_value_of_one_setting_is_its_mean_and_that_of_several_is_not_their_maximum():
    scores = SimulatedSweep(truth=np.full((10, 1), 0.7), contexts=(5,), num_games=40).scores(np.random.default_rng(0))
    assert held_out_score(scores, np.array([4]), 0) == pytest.approx(scores.values[4].mean())
    assert held_out_score(scores, np.arange(10), 0) < scores.values.mean(1).max()


def test_slices_may_cover_different_games_and_seeds():
    events = np.array([100, 200, 300])
    all_games, fewer = sums_of_events(events, np.array([50, 120, 150])), sums_of_events(events, np.array([40, 90, 130]))
    part = of_games(fewer, np.array([0, 2]))
    found = paired_differences(
        {
            "all": ({0: all_games, 1: all_games}, {0: fewer, 1: fewer, 2: fewer}),
            "some": ({0: all_games}, {0: part}),
            "one game": ({0: all_games}, {0: of_games(fewer, np.array([1]))}),
            "no seed": ({0: all_games}, {1: fewer}),
        }
    )
    assert list(found) == ["all", "some"]
    assert (found["all"].num_games, found["all"].num_seeds, found["all"].num_events) == (3, 2, 600)
    assert found["all"].difference == pytest.approx((320 - 260) / 600)
    assert (found["some"].num_games, found["some"].num_events) == (2, 400)
    assert found["some"].difference == pytest.approx((200 - 170) / 400)


def test_a_slice_without_events_has_no_difference():
    nothing = sums_of_events(np.zeros(3, np.int64), np.zeros(3, np.int64))
    assert paired_difference(nothing, nothing) is None
