"""The diagnosis of drift: a field that is taken from the truth is the true one in each frame, and no other is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex
from wm.config.model_config import ModelConfig
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import GameRules
from wm.model.world_model import build_model
from wm.rollout.dreams import dream
from wm.rollout.starts import Starts, random_starts, read_frames

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from dreams import drift

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return build_model(ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16), 10)


@pytest.fixture(scope="module")
def starts(index: GameIndex) -> Starts:
    return random_starts(index, 12, num_context=20, num_frames=10, seed=1)


def test_exactly_the_named_columns_are_true_in_each_frame(model, index, starts):
    columns = drift.GROUPS["velocities, action, age, hitlag"]
    known = read_frames(index, starts, CPU)
    feed_back = drift.WithTruth(GameRules(), known, starts.num_context, columns, keeps_speed=True)
    (found,) = dream(Imagination(model, feed_back), index, starts, CPU)
    for names, imagined, true in (
        (FLOAT_COLUMNS, found.imagined.floats, found.truth.floats),
        (CODE_COLUMNS, found.imagined.codes, found.truth.codes),
    ):
        for number, name in enumerate(names):
            if name in columns:
                assert torch.equal(imagined[..., number], true[..., number]), name
    assert not torch.equal(found.imagined.floats[..., :2], found.truth.floats[..., :2])


def test_with_everything_from_the_truth_nothing_is_wrong_and_with_nothing_it_is_a_dream(model, index, starts):
    everything = drift.errors_with(model, index, starts, drift.STATE_COLUMNS)
    assert (everything.position == 0).all() and (everything.action_right == 1).all()
    nothing = drift.errors_with(model, index, starts, ())
    (found,) = dream(Imagination(model, GameRules()), index, starts, CPU)
    expected = (found.imagined.floats[..., :2] - found.truth.floats[..., :2]).abs().mean((-1, -2))
    assert nothing.position == pytest.approx(expected.double().numpy())
    half = drift.some(nothing, np.arange(12) < 6)
    assert drift.row_of(half)["coherence_10"] == pytest.approx(nothing.position[:6].mean())


def test_every_fed_back_column_but_the_position_is_in_a_group():
    assert set(drift.GROUPS["all but the position"]) == set(drift.STATE_COLUMNS) - {"x", "y"}
    single = ("age", "action", "velocities", "hitlag", "facing, airborne, ground, jumps", "all others")
    assert sorted(name for group in single for name in drift.GROUPS[group]) == sorted(
        set(drift.STATE_COLUMNS) - {"x", "y"}
    )
