"""Sums by game: every metric follows from them exactly, also after they were stored."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets.loading.frames import GameIndex
from datasets.loading.targets import evaluation_targets
from wm.evaluation.baselines import CONTEXT, evaluate_baseline
from wm.evaluation.game_sums import GameSums, concatenate_sums, deserialize, metric_values, serialize, sums_by_game
from wm.evaluation.metrics import METRICS, EvalRecords, compute_metrics
from wm.evaluation.target_frames import read_targets
from wm.objective.weights import VAL_LOSS_WEIGHTS


@pytest.fixture(scope="module")
def records(index: GameIndex) -> EvalRecords:
    """Predictions of real frames, some of them right, with invented losses."""
    plain = evaluate_baseline("last displacement", read_targets(index, evaluation_targets(index, 500), CONTEXT))
    random = np.random.default_rng(2)
    predicted = np.where(random.random(plain.true_action.shape) < 0.3, plain.true_action, plain.predicted_action)
    counts = {name: random.integers(0, 9, len(plain)).astype(np.float64) for name in VAL_LOSS_WEIGHTS}
    totals = {name: counts[name] * random.random(len(plain)) for name in VAL_LOSS_WEIGHTS}
    return replace(plain, predicted_action=predicted, loss_totals=totals, loss_counts=counts)


def assert_equal(first: GameSums, second: GameSums) -> None:
    for field in fields(GameSums):
        one, other = getattr(first, field.name), getattr(second, field.name)
        parts = one.keys() if isinstance(one, dict) else [None]
        for part in parts:
            a, b = (one, other) if part is None else (one[part], other[part])
            assert a.dtype == b.dtype or a.dtype.kind == b.dtype.kind == "U"
            assert np.array_equal(a, b), (field.name, part)


def test_the_sums_of_a_game_are_those_of_its_frames(index, records):
    sums = sums_by_game(records, index.game_ids)
    assert sums.game_ids.dtype.kind == "U" and len(set(sums.game_ids)) == len(sums)
    for position, game in enumerate(np.unique(records.games)):
        own = records.take(records.games == game)
        right, changed = own.predicted_action == own.true_action, own.true_action != own.previous_action
        assert sums.game_ids[position] == index.game_ids[game]
        assert sums.num_frames[position] == len(own) and sums.num_pairs[position] == 2 * len(own)
        assert (sums.num_right[position], sums.num_changes[position]) == (right.sum(), changed.sum())
        assert sums.num_changes_right[position] == (right & changed).sum()
        assert sums.position_error[position] == pytest.approx(own.position_error.sum(), rel=1e-12)
        for name in VAL_LOSS_WEIGHTS:
            assert sums.loss_totals[name][position] == pytest.approx(own.loss_totals[name].sum(), rel=1e-12)
            assert sums.loss_counts[name][position] == own.loss_counts[name].sum()


def test_the_metrics_of_the_sums_are_those_of_the_records(index, records):
    found, expected = metric_values(sums_by_game(records, index.game_ids)), compute_metrics(records)
    assert tuple(found) == METRICS
    for name, value in found.items():
        assert value == pytest.approx(expected[name].value, rel=1e-13)


def test_stored_sums_have_exactly_the_same_metrics(index, records):
    sums = {k: sums_by_game(records.take(records.games % 2 == k % 2), index.game_ids) for k in (10, 1)}
    stored, facts = deserialize(serialize(sums, {"targets_seen": 7}))
    assert (tuple(stored), facts["targets_seen"]) == ((10, 1), 7)
    for context, by_game in sums.items():
        assert_equal(stored[context], by_game)
        assert metric_values(stored[context]) == metric_values(by_game)


def test_files_of_format_1_are_read_and_have_no_slices(index, records):
    sums = sums_by_game(records, index.game_ids)
    table = pq.read_table(io.BytesIO(serialize({10: sums}, {"targets_seen": 7}))).drop_columns(["slice", "label"])
    buffer = io.BytesIO()
    facts = {"format_version": 1, "contexts": [10], "targets_seen": 7}
    pq.write_table(table.replace_schema_metadata({b"evaluation": json.dumps(facts).encode()}), buffer)
    stored, found = deserialize(buffer.getvalue())
    assert found == facts and stored[10].slices == {}
    assert_equal(stored[10], sums)


def test_damaged_or_foreign_content_is_a_value_error(index, records):
    content = serialize({1: sums_by_game(records, index.game_ids)}, {})
    for damaged in (b"", content[: len(content) // 2], b"not Parquet" * 9):
        with pytest.raises(ValueError):
            deserialize(damaged)


def test_sums_of_disjoint_games_together_are_those_of_all(index, records):
    middle = np.unique(records.games)[5]
    parts = [records.take(records.games < middle), records.take(records.games >= middle)]
    joined = concatenate_sums([sums_by_game(part, index.game_ids) for part in parts])
    assert_equal(joined, sums_by_game(records, index.game_ids))


def test_a_loss_that_is_not_finite_has_no_value(index, records):
    broken = replace(records, loss_totals=records.loss_totals | {"action": np.full(len(records), np.nan)})
    found = metric_values(sums_by_game(broken, index.game_ids))
    assert found["val_loss"] is None and found["action_acc"] is not None
    assert compute_metrics(broken)["val_loss"].value is None
