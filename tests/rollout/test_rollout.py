"""Dreams beside the truth: where they begin, how they are judged, and how they are kept as replays."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import (
    CODE_COLUMNS,
    FLOAT_COLUMNS,
    GAME_COLUMNS,
    GameIndex,
    index_games,
    read_games,
    read_ranges,
)
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import UserError
from datasets.schema.columns import VELOCITY_COLUMNS
from datasets.schema.melee_ids import NESS
from datasets.schema.splits import SplitConfig
from wm.config.model_config import ModelConfig
from wm.model.dynamics.deaths import DEAD_DOWN
from wm.model.dynamics.imagination import Imagination, controller_columns
from wm.model.dynamics.next_frame import GameRules
from wm.model.encoding import Frames, positions
from wm.model.world_model import WorldModel, build_model
from wm.rollout.baselines import keep_velocity, stand_still
from wm.rollout.coherence import DreamErrors, by_game, join, metrics, summary
from wm.rollout.dreams import BATCH_STARTS, dream
from wm.rollout.events import CHECKS, EVENTS, LAST_ACTIONS, event_of, first_impossible
from wm.rollout.judge import errors_of, judge, table
from wm.rollout.slp_file import dream_as_slp, version_of
from wm.rollout.starts import Starts, one_start, random_starts, read_frames

CPU = torch.device("cpu")
NUM_CONTEXT, NUM_FRAMES = 12, 20
KIRBY = 4


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return build_model(ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16), 10).eval()


@pytest.fixture(scope="module")
def dreams(index: GameIndex) -> tuple[Frames, Frames]:
    """True frames before and after some starts."""
    starts = random_starts(index, 40, num_context=NUM_CONTEXT, num_frames=NUM_FRAMES, seed=1)
    frames = read_frames(index, starts, CPU)
    return frames.slice(0, NUM_CONTEXT), frames.slice(NUM_CONTEXT, NUM_CONTEXT + NUM_FRAMES)


def with_column(frames: Frames, name: str, value: float, *, frame: int, player: int) -> Frames:
    """A copy of the first row alone, with one value changed."""
    floats, codes = frames.floats[:1].clone(), frames.codes[:1].clone()
    if name in FLOAT_COLUMNS:
        floats[0, frame, player, FLOAT_COLUMNS.index(name)] = value
    else:
        codes[0, frame, player, CODE_COLUMNS.index(name)] = int(value)
    return replace(frames, floats=floats, codes=codes, game=frames.game[:1])


def test_starts_follow_their_seed_and_lie_within_their_games(index):
    def drawn(seed: int, count: int = 200) -> list[tuple[int, int]]:
        starts = random_starts(index, count, num_context=60, num_frames=600, seed=seed)
        assert (starts.frames >= COUNTDOWN_FRAMES).all()
        assert (starts.frames + 600 <= index.num_frames[starts.games]).all()
        return list(zip(starts.games.tolist(), starts.frames.tolist(), strict=True))

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 200
    assert drawn(3) == sorted(drawn(3))


def test_few_frames_give_few_starts_and_too_short_games_are_an_error(index):
    shortest = int(index.num_frames.max()) - COUNTDOWN_FRAMES
    assert len(random_starts(index, 300, num_context=10, num_frames=shortest, seed=0)) < 10
    with pytest.raises(UserError, match="frames; a dream of"):
        random_starts(index, 300, num_context=10, num_frames=shortest + 1, seed=0)


def test_the_frames_of_a_start_are_those_of_its_game(index):
    starts = random_starts(index, 5, num_context=7, num_frames=9, seed=3)
    frames = read_frames(index, starts, CPU)
    for row, (game, first) in enumerate(zip(starts.games, starts.frames, strict=True)):
        whole = read_games(index, [game])
        assert np.array_equal(frames.floats[row].numpy(), whole.floats[first - 7 : first + 9])
        assert np.array_equal(frames.codes[row].numpy(), whole.codes[first - 7 : first + 9])


@pytest.mark.parametrize(("frame", "message"), [(5, "needs 10 frames before it"), (10**6, "end beyond game")])
def test_a_start_outside_of_its_game_is_an_error(index, frame, message):
    with pytest.raises(UserError, match=message):
        one_start(index, 0, frame, num_context=10, num_frames=5)


def test_metrics_are_the_means_of_their_definitions():
    position = np.arange(40.0).reshape(2, 20)
    errors = DreamErrors(
        games=np.array([0, 1]),
        events=np.array([0, 4]),
        position=position,
        action_right=np.tile([1.0, 0.5], 20).reshape(2, 20),
        percent=np.ones((2, 20)),
        lost_stocks=np.array([[1, 0], [1, 0]]),
        imagined_losses=np.array([[1, 1], [0, 0]]),
        possible_frames={name: np.array([20, 4]) for name in CHECKS},
    )
    found = metrics(errors)
    assert found["coherence_5"].value == position[:, :5].mean()
    assert found["coherence_20"].value == position.mean()
    assert found["position_10"].value == position[:, 9].mean()
    assert found["action_acc_10"].value == 0.5
    assert found["action_acc_to_20"].value == 0.75
    assert found["percent_20"].value == 1.0
    assert found["possible_1"].value == 1.0
    assert found["possible_20"].value == found["possible_stocks_5"].value == 0.5
    assert found["coherence_20"].low == position[0].mean()
    assert found["coherence_20"].high == position[1].mean()
    assert found["deaths_right"].value == found["phantom_deaths"].value == 0.5
    rows = summary(errors)["events"]
    assert list(rows) == [EVENTS[0], EVENTS[4]]
    assert rows[EVENTS[4]]["share_of_error"] == pytest.approx(position[1].sum() / position.sum())
    assert join([errors, errors]).num_frames == 20


def test_sums_by_game_events_and_curves_are_those_of_a_slow_count():
    generator = np.random.default_rng(0)
    games, events = generator.integers(0, 4, 30), generator.integers(0, len(EVENTS), 30)
    position, right = generator.random((30, 7)), generator.integers(0, 3, (30, 7)) / 2
    errors = DreamErrors(
        games=games,
        events=events,
        position=position,
        action_right=right,
        percent=generator.random((30, 7)),
        lost_stocks=np.zeros((30, 2), np.int64),
        imagined_losses=np.zeros((30, 2), np.int64),
        possible_frames={name: np.full(30, 7) for name in CHECKS},
    )
    sums = by_game(errors, np.array(["a", "b", "c", "d", "not judged"]))
    for row, name in enumerate(sums["game_ids"]):
        own = [i for i in range(30) if games[i] == "abcd".index(name)]
        assert sums["num_dreams"][row] == len(own)
        assert sums["position_error"][row] == pytest.approx(sum(position[i].sum() for i in own), abs=1e-5)
        assert sums["actions_right"][row] == pytest.approx(sum(right[i].sum() for i in own), abs=1e-5)
    found = summary(errors)
    for number, event in enumerate(EVENTS):
        own = [i for i in range(30) if events[i] == number]
        row = found["events"][event]
        assert row["coherence_7"] == pytest.approx(np.mean([position[i].mean() for i in own]))
        low, high = row["intervals"]["coherence_7"]
        assert low <= row["coherence_7"] <= high
    curves = found["curves"]
    assert curves["position"] == pytest.approx([position[:, t].mean() for t in range(7)], abs=1e-6)
    assert all(np.less_equal(curves["position_low"], curves["position"]))
    assert all(np.greater_equal(curves["position_high"], curves["position"]))
    ends = [curves["position_low"][4], curves["position_high"][4]]
    assert ends == pytest.approx(found["intervals"]["position_5"], abs=1e-6)
    alone = summary(replace(errors, games=np.zeros(30, np.int64)))
    assert alone["coherence_5"] == found["coherence_5"] and alone["intervals"]["coherence_5"] == [None, None]
    assert alone["curves"].keys() == curves.keys() - {"position_low", "position_high"}


def test_a_perfect_dream_has_no_error_and_is_possible(index, dreams):
    context, truth = dreams
    starts = random_starts(index, 40, num_context=NUM_CONTEXT, num_frames=NUM_FRAMES, seed=1)
    errors = errors_of(starts, context, truth, truth)
    found = metrics(errors)
    assert found["coherence_20"].value == found["percent_20"].value == 0.0
    assert found["action_acc_to_20"].value == found["possible_20"].value == 1.0


@pytest.mark.parametrize(
    ("check", "column", "value"),
    [("stocks", "stocks", 5), ("percent", "percent", 1e4), ("position", "y", -900.0), ("action", "action", 399)],
)
def test_an_impossible_frame_is_found(index, dreams, check, column, value):
    context, truth = dreams
    last = context.examples(0, 1).slice(11, 12)
    wrong = with_column(truth, column, value, frame=6, player=1)
    before = first_impossible(last, truth.examples(0, 1))
    assert {name: frames.tolist() for name, frames in before.items()} == {name: [NUM_FRAMES] for name in CHECKS}
    found = {name: frames.tolist() for name, frames in first_impossible(last, wrong).items()}
    assert found == {name: [6 if name == check else NUM_FRAMES] for name in CHECKS}


def test_percent_may_fall_in_a_death_and_by_the_magnet_of_ness_alone(index, dreams):
    context, truth = dreams
    last = with_column(context.examples(0, 1).last, "percent", 50.0, frame=0, player=1)
    healed = stand_still(last, truth.examples(0, 1))
    healed.floats[:, 9:, 1, FLOAT_COLUMNS.index("percent")] = 40.0

    def possible_frames(frames: Frames) -> int:
        return int(first_impossible(last, frames)["percent"][0])

    assert possible_frames(healed) == 9
    assert possible_frames(with_column(healed, "character", NESS, frame=9, player=1)) == NUM_FRAMES
    assert possible_frames(with_column(healed, "action", DEAD_DOWN, frame=8, player=1)) == NUM_FRAMES


def test_a_dream_is_of_the_first_kind_of_event_in_it(dreams):
    context, truth = dreams
    last = context.examples(0, 1)
    calm = stand_still(last, truth.examples(0, 1))
    falls = with_column(calm, "action", 0, frame=19, player=0)
    held = with_column(calm, "action", 253, frame=3, player=1)
    hit = with_column(calm, "percent", float(calm.float_column("percent")[0, 0, 1]) + 3, frame=5, player=1)
    both = with_column(hit, "action", 0, frame=19, player=0)
    in_air = with_column(calm, "airborne", 1, frame=4, player=0)
    lands = with_column(in_air, "airborne", 0, frame=5, player=0)
    found = [EVENTS[int(event_of(last, frames)[0])] for frames in (calm, falls, held, hit, both, lands)]
    assert found == ["none", "death and respawn", "ledge", "hit", "death and respawn", "landing"]


def test_baselines_keep_the_place_or_the_velocity(dreams):
    context, truth = dreams
    still, moving = stand_still(context, truth), keep_velocity(context, truth)
    assert torch.equal(still.floats, context.floats[:, -1:].expand_as(truth.floats))
    assert torch.equal(controller_columns(still), controller_columns(truth))
    steps = positions(moving).diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-3)
    lacks = context.present("velocity") == 0
    last = positions(context)[:, -1] - positions(context)[:, -2]
    torch.testing.assert_close(steps[lacks, 0], last[lacks], rtol=1e-3, atol=1e-3)
    now = {name: context.float_column(name)[:, -1] for name in VELOCITY_COLUMNS}
    own_x = torch.where(context.code_column("airborne")[:, -1] != 0, now["self_air_x"], now["self_ground_x"])
    known = torch.stack([own_x + now["attack_x"], now["self_y"] + now["attack_y"]], dim=-1)
    assert (~lacks).any() and known[~lacks].abs().max() > 1
    torch.testing.assert_close(steps[~lacks, 0], known[~lacks], rtol=1e-3, atol=1e-3)


def test_coherence_is_deterministic_and_complete(index, model):
    def measured(**options: Any) -> dict[str, Any]:
        return judge(model, index, CPU, num_starts=30, **options)

    first = measured()
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(measured()))
    keys = [f"coherence_{n}" for n in (5, 10, 20)] + [f"{k}_{n}" for k in ("position", "action_acc") for n in (10, 20)]
    for found in (first, *first["baselines"].values()):
        assert all(np.isfinite(found[key]) for key in [*keys, "percent_20"])
        assert len(found["curves"]["position"]) == 20
    assert sum(row["num_starts"] for row in first["events"].values()) == first["num_starts"] == 30
    assert first["possible_stocks_20"] == first["possible_percent_20"] == first["possible_position_20"] == 1.0
    theirs = measured(rule="theirs")
    assert theirs["baselines"] == first["baselines"]
    assert theirs["coherence_20"] != first["coherence_20"]
    assert measured(seed=7)["baselines"] != first["baselines"]
    assert measured(window=10)["state"] == "window of 10"
    assert "stand still" in table(first)


@pytest.mark.parametrize("game", [0, -1])
def test_a_dream_written_as_a_replay_reads_back(index, model, game):
    game %= len(index)
    starts = one_start(index, game, 400, num_context=NUM_CONTEXT, num_frames=30)
    imagined = next(dream(Imagination(model, GameRules()), index, starts, CPU)).imagined
    before = read_ranges(index, np.array([game]), np.array([0]), np.array([400]))
    parsed = parse_replay(dream_as_slp(index, game, before, imagined))
    assert parsed.facts.stage == index.facts[game, 0]
    assert [player.character for player in parsed.facts.players] == index.characters[game].tolist()
    has = dict(zip(GAME_COLUMNS, index.facts[game], strict=True))
    floats = np.concatenate([before.floats, imagined.floats[0].numpy()])
    codes = np.concatenate([before.codes, imagined.codes[0].numpy()])
    for player in (0, 1):
        for column, name in enumerate(FLOAT_COLUMNS):
            values = parsed.players[player][name]
            if values is None:
                assert not has["has_hitlag" if name == "hitlag" else "has_velocity"]
                continue
            assert np.array_equal(values, floats[:, player, column]), name
        for column, name in enumerate(CODE_COLUMNS):
            values = parsed.players[player][name]
            if values is not None:
                assert np.array_equal(values.astype(np.int64).astype(np.int16), codes[:, player, column]), name


def test_a_game_of_an_older_pipeline_becomes_a_replay_whatever_its_actions(index):
    games = index.corpus.games
    corpus = replace(index.corpus)
    forms = pa.array(["parsed-v2"] * games.num_rows)
    corpus.__dict__["games"] = games.set_column(games.schema.get_field_index("form"), "form", forms)
    before = read_ranges(index, np.array([0]), np.array([0]), np.array([400]))
    before.codes[50:80, :, CODE_COLUMNS.index("action")] = LAST_ACTIONS[KIRBY]
    imagined = stand_still(*_around(index, one_start(index, 0, 400, num_context=NUM_CONTEXT, num_frames=30)))
    parsed = parse_replay(dream_as_slp(replace(index, corpus=corpus), 0, before, imagined))
    assert parsed.players[1]["action"][60] == LAST_ACTIONS[KIRBY]
    assert len(parsed.players[0]["x"]) == 430


def _around(index: GameIndex, starts: Starts) -> tuple[Frames, Frames]:
    frames = read_frames(index, starts, CPU)
    return frames.slice(0, starts.num_context), frames.slice(starts.num_context, frames.num_frames)


def test_a_replay_has_the_oldest_version_with_its_fields():
    fields = ("velocity", "hitlag", "hurtbox")
    for has, version in {(1, 1, 1): "3.10.0", (1, 0, 1): "3.7.0", (0, 0, 1): "2.2.0", (0, 0, 0): "2.0.0"}.items():
        assert version_of(dict(zip(fields, map(bool, has), strict=True))) == version


def test_a_corpus_without_a_needed_column_is_a_users_error(tiny_corpus: Path, tmp_path: Path):
    broken = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, broken)
    index = index_games(open_corpus(broken), "all", SplitConfig())
    for shard in (broken / "frames").iterdir():
        pq.write_table(pq.read_table(shard).drop_columns(["p1_jumps"]), shard)
    with pytest.raises(UserError, match="lacks the columns p1_jumps"):
        read_games(index, [0])


def test_dreams_are_made_in_batches_of_one_size(index, monkeypatch):
    model = build_model(ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16), 4)
    monkeypatch.setitem(BATCH_STARTS, "cpu", 8)
    for num_starts, sizes in ((0, []), (1, [1]), (8, [8]), (9, [5, 4]), (20, [7, 7, 6])):
        starts = random_starts(index, max(1, num_starts), num_context=4, num_frames=2, seed=0).part(0, num_starts)
        found = list(dream(Imagination(model, GameRules()), index, starts, torch.device("cpu")))
        assert [len(part.starts) for part in found] == sizes


def test_frames_before_a_game_are_its_first_frame(index):
    starts = Starts(games=np.array([0, 1]), frames=np.array([5, 300]), num_context=3, num_frames=4)
    frames = read_frames(index, starts, torch.device("cpu"), 10)
    game, other = (read_games(index, [number]) for number in (0, 1))
    assert np.array_equal(frames.floats[0].numpy(), game.floats[[0] * 5 + list(range(9))])
    assert np.array_equal(frames.codes[1].numpy(), other.codes[290:304])


def test_the_actions_of_real_games_exist(dev_corpus: Path):
    index = index_games(open_corpus(dev_corpus), "all", SplitConfig())
    codes = read_games(index, range(len(index))).codes
    action, character = (codes[..., CODE_COLUMNS.index(name)] for name in ("action", "character"))
    highest = np.array(LAST_ACTIONS)[character]
    assert (action <= highest).all()
    assert (action > 340).sum() > 10_000
