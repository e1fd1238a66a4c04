"""The verdict on K: which evidence leads to which, and what is said about incomplete evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from simulated_sweeps import SimulatedSweep

from datasets.runtime.errors import UserError
from tune.analysis.choice import ContextChoice, Rule, choose_context, decide
from tune.analysis.context_comparison import Bounds
from tune.analysis.evidence import TrialEvidence
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import Context

CONTEXTS: tuple[Context, ...] = (1, 5, 10, 60, "stream")
NON_INFERIOR = Bounds(non_inferior=True, worse=False)
WORSE = Bounds(non_inferior=False, worse=True)
OPEN = Bounds(non_inferior=False, worse=False)


def drawn(truth: Sequence[Sequence[float]], *, draw: int = 0, **model: Any) -> list[TrialEvidence]:
    contexts = CONTEXTS[: len(truth[0])]
    sweep = SimulatedSweep(truth=np.array(truth), contexts=contexts, **{"num_games": 300, **model})
    return sweep.evidence(np.random.default_rng(draw))


def row(choice: ContextChoice, context: Context, rule: int = 0):
    return next(row for row in choice.results[rule].rows if row.context == context)


@pytest.mark.parametrize(
    ("bounds", "reference", "expected"),
    [
        ([NON_INFERIOR, NON_INFERIOR, NON_INFERIOR], 10, ("enough", 1)),
        ([WORSE, NON_INFERIOR, NON_INFERIOR], 10, ("needed", 5)),
        ([WORSE, WORSE, NON_INFERIOR], 10, ("needed", 10)),
        ([OPEN, NON_INFERIOR, NON_INFERIOR], 10, ("enough", 5)),
        ([OPEN, NON_INFERIOR, NON_INFERIOR], 5, ("enough", 5)),
        ([WORSE, OPEN, NON_INFERIOR], 10, ("undecided", 10)),
        ([OPEN, OPEN, OPEN], 10, ("undecided", 10)),
    ],
)
def test_the_verdict_follows_from_the_bounds(bounds, reference, expected):
    assert decide([dict(zip((1, 5, 10), bounds, strict=True))], reference) == expected


def test_a_context_must_be_non_inferior_by_every_rule_and_is_worse_if_it_is_by_one():
    first = dict.fromkeys((5, 10, 60), NON_INFERIOR)
    assert decide([first, {5: OPEN, 10: NON_INFERIOR, 60: NON_INFERIOR}], 60) == ("enough", 10)
    assert decide([first, {5: WORSE, 10: NON_INFERIOR, 60: NON_INFERIOR}], 60) == ("needed", 10)


def test_a_short_context_that_loses_little_is_enough():
    choice = choose_context(drawn([[0.69, 0.70, 0.70, 0.70, 0.70]]))
    assert (choice.verdict, choice.context) == ("enough", 1)
    assert row(choice, 1).status == "non-inferior"
    assert row(choice, 1).loss_low <= 0.01 <= row(choice, 1).loss_high < 0.05
    assert choice.more is None


def test_networks_that_predict_hardly_anything_decide_nothing():
    choice = choose_context(drawn([[0.01, 0.02, 0.03, 0.03, 0.03]], game=0.005, game_by_context=0.002, seed=0.0))
    assert (choice.verdict, choice.more) == ("undecided", None)
    assert "a network that predicts nothing would pass too" in choice.remarks[0]


def test_a_context_is_needed_if_all_shorter_ones_lose_too_much():
    choice = choose_context(drawn([[0.40, 0.55, 0.69, 0.70, 0.70]]))
    assert (choice.verdict, choice.context) == ("needed", 10)
    assert [row(choice, k).status for k in (1, 5)] == ["worse", "worse"]


def test_few_games_leave_it_open_and_the_number_that_is_proposed_decides():
    """On average over draws: the proposal rests on an estimate of the loss that few games give."""
    model = {"num_seeds": 1, "seed": 0.0, "seed_by_context": 0.0}
    decided = []
    for draw in range(20):
        choice = choose_context(drawn([[0.68, 0.70]], num_games=15, draw=draw, **model), reference=5)
        if choice.more is not None and choice.more.games is not None:
            later = drawn([[0.68, 0.70]], num_games=15 + choice.more.games, draw=100 + draw, **model)
            decided.append(choose_context(later, reference=5).verdict != "undecided")
    assert len(decided) >= 5
    assert np.mean(decided) >= 0.5


def test_what_games_cannot_decide_more_seeds_can():
    truth = [[0.67, 0.70]]
    choice = choose_context(drawn(truth, num_games=1_000, seed_by_context=0.02, num_seeds=3), reference=5)
    assert choice.verdict == "undecided"
    assert choice.more is not None
    assert choice.more.games is None
    assert choice.more.seeds is not None


def test_with_one_seed_the_choice_says_that_the_variation_between_trainings_is_unknown():
    choice = choose_context(drawn([[0.69, 0.70]], num_seeds=1))
    assert choice.num_seeds == 1
    assert any("one seed: the variation between trainings is unknown" in remark for remark in choice.remarks)


def test_metrics_where_lower_is_better_lose_by_being_higher():
    evidence = drawn([[0.50, 0.69, 0.70]])
    absolute = choose_context(evidence, (Rule(metric="pos_mae", threshold=0.001),))
    assert row(absolute, 1).value > row(absolute, 10).value
    assert row(absolute, 1).loss == pytest.approx(row(absolute, 1).value - row(absolute, 10).value, rel=1e-6)
    assert absolute.results[0].reference == 10
    relative = choose_context(evidence, (Rule(metric="pos_mae", threshold=0.005, relative=True),))
    ratio = row(relative, 1).value / row(relative, 10).value
    assert row(relative, 1).loss == pytest.approx(ratio - 1, rel=1e-6)
    assert row(relative, 1).low < row(relative, 1).value < row(relative, 1).high


def test_a_second_rule_can_make_a_longer_context_necessary():
    evidence = drawn([[0.65, 0.70, 0.70]])
    loose, strict = Rule(threshold=0.1), Rule(metric="pos_mae", threshold=0.001, relative=True)
    assert choose_context(evidence, (loose,)).context == 1
    combined = choose_context(evidence, (loose, strict))
    assert (combined.verdict, combined.context) == ("needed", 5)
    assert len(combined.results) == 2
    assert "K = 1" in combined.reason
    assert "of pos_mae" in combined.reason


def test_a_named_reference_has_no_loss_and_others_may_be_better():
    choice = choose_context(drawn([[0.60, 0.65, 0.75]]), reference=5)
    assert (row(choice, 5).loss_low, row(choice, 5).loss_high) == (0, 0)
    assert row(choice, 10).loss_high < 0
    assert row(choice, 5).status == "reference"


def test_the_whole_game_is_the_longest_context_and_beyond_training_like_long_ones():
    evidence = [replace(trial, trained_context=10) for trial in drawn([[0.4, 0.5, 0.6, 0.65, 0.70]])]
    choice = choose_context(evidence)
    assert [row.context for row in choice.results[0].rows] == list(CONTEXTS)
    assert [row.beyond_training for row in choice.results[0].rows] == [False, False, False, True, True]
    assert any(remark.startswith("K = 60, whole game: longer than") for remark in choice.remarks)


def test_games_that_a_trial_lacks_are_left_out_and_counted():
    evidence = drawn([[0.69, 0.70]], num_games=50)
    sums = evidence[0].sums[5]
    kept = np.arange(len(sums)) != 7
    fewer = GameSums(
        game_ids=sums.game_ids[kept],
        num_frames=sums.num_frames[kept],
        num_pairs=sums.num_pairs[kept],
        num_right=sums.num_right[kept],
        num_changes=sums.num_changes[kept],
        num_changes_right=sums.num_changes_right[kept],
        position_error=sums.position_error[kept],
        loss_totals={},
        loss_counts={},
    )
    choice = choose_context([replace(evidence[0], sums=evidence[0].sums | {5: fewer}), *evidence[1:]])
    assert (choice.num_games, choice.num_games_left_out) == (49, 1)
    assert row(choice, 1).num_events == int(sums.num_changes[kept].sum())


def test_trials_evaluated_on_different_frames_are_refused():
    evidence = drawn([[0.69, 0.70]], num_games=50)
    changed = replace(evidence[0].sums[5], num_frames=evidence[0].sums[5].num_frames + 1)
    with pytest.raises(UserError, match=r"evaluated on different frames of game game-00000"):
        choose_context([replace(evidence[0], sums=evidence[0].sums | {5: changed}), *evidence[1:]])


def test_a_missing_seed_does_not_bias_the_comparison_of_the_others():
    """The seed that lacks the long K is much worse than the others: unpaired, the short K would seem to lose."""
    evidence = drawn([[0.70, 0.70]], num_seeds=4, draw=3)
    worse = drawn([[0.40, 0.40]], num_seeds=4, draw=3)
    broken = replace(worse[0], sums={1: worse[0].sums[1]})
    choice = choose_context([broken, *evidence[1:]])
    low, high = row(choice, 1).loss_low, row(choice, 1).loss_high
    assert low <= 0 <= high
    assert row(choice, 1).num_seeds == 4
    assert row(choice, 5).num_seeds == 3
    assert any("not every K has all seeds" in remark for remark in choice.remarks)


@pytest.mark.parametrize(
    "trials", [[(0, 0), (0, 1), (1, 0)], [(0, 0), (0, 1)], [(0, 0), (1, 0)], [(0, 0), (1, 0), (1, 1)]]
)
def test_an_unfinished_sweep_has_finite_intervals(trials):
    """Seed 1 lacks the longer K. Where no seeds are shared, the variation is that of independent networks."""
    evidence = {(t.setting, t.seed): t for t in drawn([[0.68, 0.70], [0.5, 0.5]], num_seeds=3)}
    finished = [evidence[f"setting {setting}", seed] for setting, seed in trials]
    finished = [replace(t, sums={1: t.sums[1]}) if t.seed else t for t in finished]
    choice = choose_context(finished)
    assert np.isfinite([(row.loss_low, row.loss_high, row.low, row.high) for row in choice.results[0].rows]).all()
    assert len(choice.results[0].rows) == 2


def test_a_setting_without_a_seed_in_common_is_left_out_and_named():
    evidence = drawn([[0.69, 0.70]], num_seeds=3)
    stranger = replace(drawn([[0.69, 0.70]])[0], setting="other", seed=9, trial="other")
    choice = choose_context([*evidence, stranger])
    assert any(remark.startswith("other at K = 1 is left out") for remark in choice.remarks)


def test_models_that_predict_no_action_choose_nothing():
    choice = choose_context(drawn([[0.0, 0.0]], game=0.0, game_by_context=0.0, seed=0.0, seed_by_context=0.0))
    assert choice.verdict == "undecided"
    assert "train on more targets" in choice.remarks[0]


def test_one_context_is_nothing_to_choose_from():
    choice = choose_context(drawn([[0.7]]))
    assert choice.verdict == "undecided"
    assert choice.remarks[0] == "only one K was evaluated: there is nothing to compare"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda evidence: choose_context([]), "no trial has trained to its end"),
        (
            lambda evidence: choose_context(evidence, reference=30),
            "reference K = 30 was not evaluated; choose one of K = 1",
        ),
        (lambda evidence: choose_context([*evidence, evidence[0]]), "two trials of the setting setting 0 have seed 0"),
        (lambda evidence: Rule(threshold=0.0), "must be a positive number"),
        (lambda evidence: Rule(threshold=float("nan")), "must be a positive number"),
        (lambda evidence: Rule(threshold=1.5, relative=True), "between 0 and 1"),
    ],
)
def test_mistakes_are_one_line(change, message):
    with pytest.raises(UserError, match=message) as error:
        change(drawn([[0.69, 0.70]], num_games=20))
    assert "\n" not in str(error.value)


def test_a_metric_that_is_not_reported_is_refused():
    evidence = [
        replace(t, sums={k: replace(sums, loss_totals={}, loss_counts={}) for k, sums in t.sums.items()})
        for t in drawn([[0.69, 0.70]], num_games=20)
    ]
    with pytest.raises(UserError, match="reports no val_loss"):
        choose_context(evidence, (Rule(metric="val_loss", threshold=0.01),))


def test_the_same_evidence_gives_the_same_numbers():
    evidence = drawn([[0.68, 0.70], [0.69, 0.69]])
    assert choose_context(evidence).results == choose_context(evidence).results
