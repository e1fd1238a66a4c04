"""The nearest real situation: found as its definition says, never in evaluated games, and carried on as it went."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from datasets.corpus.reader import Corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays, GameIndex, read_games
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.config.model_config import ModelConfig
from wm.model.dynamics.deaths import DEAD_LEFT, REBIRTH
from wm.model.dynamics.imagination import controller_columns
from wm.model.encoding import BUTTON_BITS, STICK_GRID, TRIGGER_GRID, Frames
from wm.model.world_model import build_model
from wm.rollout import retrieval, situations
from wm.rollout.judge import NEAREST_SITUATION, judge
from wm.rollout.retrieval import Retrieval, chosen_games, retrieve
from wm.rollout.situations import CONTROLLER_OFFSETS, FRAMES_BEFORE, FUTURE_OFFSETS, Situations, distances
from wm.rollout.starts import Starts, random_starts, read_frames

CPU = torch.device("cpu")
NUM_FRAMES = 25


def some_games(index: GameIndex, games: slice) -> GameIndex:
    """A part of an index."""
    arrays = {own.name: getattr(index, own.name) for own in fields(index)}
    return GameIndex(**{name: value if isinstance(value, Corpus) else value[games] for name, value in arrays.items()})


def under_other_names(index: GameIndex) -> GameIndex:
    """The same games as if they were others."""
    return replace(index, game_ids=np.array([f"other {name}" for name in index.game_ids]))


@pytest.fixture(scope="module")
def few(index: GameIndex) -> GameIndex:
    return some_games(index, slice(0, 3))


def starts_of(index: GameIndex, num_frames: int = NUM_FRAMES, num_context: int = 10) -> Starts:
    return random_starts(index, 12, num_context=num_context, num_frames=num_frames, seed=5)


def around(index: GameIndex, starts: Starts) -> tuple[Frames, Frames]:
    frames = read_frames(index, starts, CPU)
    return frames.slice(0, starts.num_context), frames.slice(starts.num_context, frames.num_frames)


def test_the_moment_itself_is_the_nearest_and_its_continuation_is_the_truth(few):
    starts = starts_of(few)
    found = retrieve(under_other_names(few), few, starts, seed=0)
    assert found is not None and not found.is_swapped.any()
    context, truth = around(few, starts)
    imagined = found.imagine(0, context, truth)
    torch.testing.assert_close(imagined.floats, truth.floats, rtol=0, atol=1e-3)
    assert torch.equal(imagined.codes, truth.codes)
    part = found.imagine(5, context.examples(5, 8), truth.examples(5, 8))
    assert torch.equal(part.floats, imagined.floats[5:8])


def test_a_moment_is_found_with_the_players_exchanged(few, monkeypatch):
    def exchanged(index: GameIndex, games: np.ndarray) -> FrameArrays:
        frames = read_games(index, games)
        return FrameArrays(floats=frames.floats[:, ::-1].copy(), codes=frames.codes[:, ::-1].copy())

    monkeypatch.setattr(retrieval, "read_games", exchanged)
    starts = starts_of(few)
    found = retrieve(under_other_names(few), few, starts, seed=0)
    assert found is not None and found.is_swapped.all()
    context, truth = around(few, starts)
    imagined = found.imagine(0, context, truth)
    torch.testing.assert_close(imagined.floats, truth.floats, rtol=0, atol=1e-3)
    assert torch.equal(imagined.codes, truth.codes)


def test_of_many_moments_evenly_spaced_ones_are_compared(few, monkeypatch):
    games = np.arange(len(few))
    every, _ = retrieval._moments(few, games, NUM_FRAMES)
    monkeypatch.setattr(retrieval, "MAX_MOMENTS", len(every) // 3 - 1)
    some, stages = retrieval._moments(few, games, NUM_FRAMES)
    assert some.tolist() == every[::4].tolist() and len(stages) == len(some)


def test_games_of_the_evaluation_are_never_searched(index, few):
    starts = starts_of(few)
    assert retrieve(few, few, starts, seed=0) is None
    train = some_games(index, slice(0, 5))
    assert chosen_games(train, few, starts, seed=0).tolist() == [3, 4]


def test_of_many_games_those_with_the_same_stage_and_characters_are_searched_first(index, few, monkeypatch):
    train, starts = under_other_names(index), starts_of(few)
    every = chosen_games(train, few, starts, seed=0)
    monkeypatch.setattr(retrieval, "MAX_FRAMES", 1)
    (first,) = chosen_games(train, few, starts, seed=0)
    pairs = {(int(few.facts[g, 0]), *sorted(few.characters[g].tolist())) for g in np.unique(starts.games)}
    assert (int(train.facts[first, 0]), *sorted(train.characters[first].tolist())) in pairs
    assert len(every) > 1


def slow_distance(a: FrameArrays, i: int, b: FrameArrays, j: int, same_stage: bool) -> float:
    """The distance by its definition, one term at a time."""

    def number(frames: FrameArrays, row: int, player: int, name: str) -> float:
        if name in FLOAT_COLUMNS:
            return float(frames.floats[row, player, FLOAT_COLUMNS.index(name)])
        return float(frames.codes[row, player, CODE_COLUMNS.index(name)])

    def place(frames: FrameArrays, row: int, player: int) -> np.ndarray:
        return frames.floats[row, player, :2].astype(np.float64)

    total = 0.0 if same_stage else situations.STAGE_PENALTY
    for player in (0, 1):
        for name, unit in {**situations.UNITS, "jumps": situations.JUMPS_UNIT}.items():
            total += ((number(a, i, player, name) - number(b, j, player, name)) / unit) ** 2
        for frames in (1, FRAMES_BEFORE):
            step_a = (place(a, i, player) - place(a, i - frames, player)) / frames
            step_b = (place(b, j, player) - place(b, j - frames, player)) / frames
            total += (((step_a - step_b) / situations.DISPLACEMENT_UNIT) ** 2).sum()
        if (number(a, i, player, "facing") > 0) != (number(b, j, player, "facing") > 0):
            total += situations.FACING_PENALTY
        if (number(a, i, player, "airborne") != 0) != (number(b, j, player, "airborne") != 0):
            total += situations.AIRBORNE_PENALTY
        if number(a, i, player, "character") != number(b, j, player, "character"):
            total += situations.CHARACTER_PENALTY
        age = (number(a, i, player, "state_age") - number(b, j, player, "state_age")) / situations.AGE_UNIT
        same = number(a, i, player, "action") == number(b, j, player, "action")
        total += min(age**2, situations.ACTION_PENALTY) if same else situations.ACTION_PENALTY
        for offset in CONTROLLER_OFFSETS:
            for name in ("main_x", "main_y", "c_x", "c_y", "trigger"):
                grid = TRIGGER_GRID if name == "trigger" else STICK_GRID
                gap = number(a, i + offset, player, name) - number(b, j + offset, player, name)
                total += (gap / grid / situations.STICK_UNIT) ** 2 / len(CONTROLLER_OFFSETS)
            pressed = [int(number(f, row + offset, player, "buttons")) for f, row in ((a, i), (b, j))]
            different = sum((pressed[0] & bit != 0) != (pressed[1] & bit != 0) for bit in BUTTON_BITS.values())
            total += different / situations.BUTTON_UNIT**2 / len(CONTROLLER_OFFSETS)
    relative_a, relative_b = place(a, i, 0) - place(a, i, 1), place(b, j, 0) - place(b, j, 1)
    return total + (((relative_a - relative_b) / situations.RELATIVE_UNIT) ** 2).sum()


def test_distances_are_those_of_their_definition(index):
    frames = read_games(index, [0, 1])
    rows = np.random.default_rng(0).integers(FRAMES_BEFORE, len(frames) - max(FUTURE_OFFSETS), size=24)
    stages = np.arange(24, dtype=np.int16) % 2
    of_rows: Situations = situations.situations(frames, rows, stages)
    found = distances(of_rows.part(0, 6), of_rows.part(6, 24))
    for q, i in enumerate(rows[:6]):
        for m, j in enumerate(rows[6:]):
            expected = slow_distance(frames, i, frames, j, stages[q] == stages[6 + m])
            assert found[q, m] == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_numbers_go_on_from_the_start_until_a_death_and_are_copied_from_then_on(few):
    game = read_games(few, [0])
    row = COUNTDOWN_FRAMES + 300
    floats, codes = game.floats.copy(), game.codes.copy()
    floats[row : row + 5, 0, 0] = [0.0, 1.0, 2.0, -240.0, 5.0]
    floats[row : row + 5, 0, 2] = [10.0, 10.0, 17.0, 17.0, 0.0]
    codes[row : row + 5, 0, 0] = [30, 30, 30, DEAD_LEFT, REBIRTH]
    codes[row : row + 5, 0, 2] = [3, 3, 3, 2, 2]
    codes[row : row + 5, 1, 0] = 30
    found = Retrieval(
        frames=FrameArrays(floats=floats, codes=codes),
        moments=np.array([row]), is_swapped=np.array([False]),
    )  # fmt: skip
    start = Starts(games=np.array([0]), frames=np.array([row - 99]), num_context=1, num_frames=4)
    context, truth = around(few, start)
    context.floats[0, 0, 0, [0, 2]] = torch.tensor([50.0, 80.0])
    context.codes[0, 0, 0, 2] = 1
    imagined = found.imagine(0, context, truth)
    assert imagined.float_column("x")[0, :, 0].tolist() == [51.0, 52.0, -240.0, 5.0]
    assert imagined.float_column("percent")[0, :, 0].tolist() == [80.0, 87.0, 17.0, 0.0]
    assert imagined.code_column("stocks")[0, :, 0].tolist() == [1, 1, 0, 0]
    assert torch.equal(controller_columns(imagined), controller_columns(truth))


@pytest.mark.parametrize(("num_frames", "num_context"), [(3, 10), (600, 2)])
def test_short_and_long_dreams_and_short_contexts_are_searched_too(few, num_frames, num_context):
    starts = starts_of(few, num_frames=num_frames, num_context=num_context)
    found = retrieve(under_other_names(few), few, starts, seed=0)
    assert found is not None
    assert found.imagine(0, *around(few, starts)).num_frames == num_frames


def test_the_nearest_situation_is_judged_beside_the_other_baselines(index, few):
    torch.manual_seed(0)
    model = build_model(ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16), 10).eval()
    train = some_games(index, slice(1, 5))

    def measured(train: GameIndex | None) -> dict:
        return judge(model, few, CPU, num_starts=20, train=train)

    first = measured(train)
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(measured(train)))
    without = measured(None)
    assert first["baselines"].keys() - without["baselines"].keys() == {NEAREST_SITUATION}
    assert first["baselines"][NEAREST_SITUATION].keys() == first["baselines"]["stand still"].keys()
    assert first["coherence_20"] == without["coherence_20"]
