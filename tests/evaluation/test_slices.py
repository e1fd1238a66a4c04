"""Slices of an evaluation: labels that depend on the game alone, and sums by label that add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from datasets.loading.frames import FLOAT_COLUMNS, GameIndex
from datasets.loading.targets import Targets, evaluation_targets
from wm.evaluation.baselines import evaluate_baseline
from wm.evaluation.game_sums import concatenate_sums, deserialize, metric_values, serialize, sums_by_game
from wm.evaluation.metrics import EvalRecords, Resampling, metrics_by_label
from wm.evaluation.slices import NEEDED_CONTEXT, SINCE_HIT_BOUNDS, labels_of, since_hit, slice_sums
from wm.evaluation.target_frames import read_targets

PAIR_METRICS = ("change_acc", "action_acc", "pos_mae")


@pytest.fixture(scope="module")
def targets(index: GameIndex) -> Targets:
    return evaluation_targets(index, 800)


@pytest.fixture(scope="module")
def records(index: GameIndex, targets: Targets) -> EvalRecords:
    """Predictions of real frames, some of them right."""
    plain = evaluate_baseline("last displacement", read_targets(index, targets, NEEDED_CONTEXT))
    random = np.random.default_rng(2)
    predicted = np.where(random.random(plain.true_action.shape) < 0.3, plain.true_action, plain.predicted_action)
    return replace(plain, predicted_action=predicted)


def test_the_time_since_the_last_hit_is_that_of_the_whole_game_whatever_was_read(index, whole_games, targets):
    expected = []
    for game, frame in zip(targets.games, targets.frames, strict=True):
        percent = whole_games[game].floats[:frame, :, FLOAT_COLUMNS.index("percent")]
        hits = np.flatnonzero((np.diff(percent, axis=0) > 0).any(1)) + 1
        age = frame - 1 - hits[-1] if len(hits) else 10**6
        expected.append(sum(age >= bound for bound in SINCE_HIT_BOUNDS))
    assert len(set(expected)) == len(SINCE_HIT_BOUNDS) + 1
    for context in (NEEDED_CONTEXT, "stream"):
        assert since_hit(read_targets(index, targets, context)).tolist() == expected


def test_the_sums_of_a_slice_are_those_of_its_pairs_and_all_slices_add_up(index, targets, records):
    labels = labels_of(records, index, since_hit(read_targets(index, targets, NEEDED_CONTEXT)))
    slices = slice_sums(records, index.game_ids, labels)
    assert list(slices) == ["action", "character", "since hit"]
    whole = sums_by_game(records, index.game_ids)
    for own in labels:
        expected = metrics_by_label(records, own.numbers, list(own.names), Resampling(records.games))
        assert slices[own.dimension].keys() == expected.keys()
        for label, sums in slices[own.dimension].items():
            assert sums.num_pairs.sum() == expected[label]["count"]
            for name in PAIR_METRICS:
                assert metric_values(sums)[name] == pytest.approx(expected[label]["metrics"][name]["value"])
            assert metric_values(sums)["val_loss"] is None
        for column in ("num_pairs", "num_right", "num_changes", "num_changes_right"):
            total = sum(getattr(sums, column).sum() for sums in slices[own.dimension].values())
            assert total == getattr(whole, column).sum()
    assert sum(s.num_frames.sum() for s in slices["since hit"].values()) == len(records)


def test_slices_and_the_whole_game_survive_storing_and_joining(index, records):
    labels = labels_of(records, index, np.arange(len(records)) % 5)
    middle = np.unique(records.games)[5]
    parts = []
    for chosen in (records.games < middle, records.games >= middle):
        own = records.take(chosen)
        own_labels = [replace(one, numbers=one.numbers[chosen]) for one in labels]
        slices = slice_sums(own, index.game_ids, own_labels)
        parts.append(replace(sums_by_game(own, index.game_ids), slices=slices))
    joined = concatenate_sums(parts)
    stored, facts = deserialize(serialize({1: parts[0], "stream": joined}, {}))
    assert list(stored) == facts["contexts"] == [1, "stream"]
    whole = slice_sums(records, index.game_ids, labels)
    for dimension, by_label in whole.items():
        found = stored["stream"].slices[dimension]
        assert found.keys() == by_label.keys()
        for label, sums in by_label.items():
            assert found[label].num_right.dtype == np.int64
            assert dict(zip(found[label].game_ids, found[label].num_right, strict=True)) == dict(
                zip(sums.game_ids, sums.num_right, strict=True)
            )
            assert metric_values(found[label]) == metric_values(sums)
