"""What the model sees of a frame, against the table of `docs/architecture.md` worked out one frame at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datasets.loading.frames import GAME_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from wm.config.model_config import ModelConfig
from wm.model.derived_features import (
    NUM_EGOCENTRIC_FEATURES,
    NUM_FOURIER_FEATURES,
    egocentric_features,
    fourier_features,
)
from wm.model.encoding import (
    NUM_CONTROLLER_FEATURES,
    NUM_FRAME_FEATURES,
    FrameEncoder,
    Frames,
    category,
    controllers,
    layout_width,
    to_frames,
)
from wm.model.state_fields import FLAGS, StateFields, flags_of, state_features, state_fields

CONTINUOUS = [
    ("percent", 0.01), ("x", 0.05), ("y", 0.05), ("shield", 0.01), ("self_air_x", 0.05), ("self_y", 0.05),
    ("self_ground_x", 0.05), ("attack_x", 0.05), ("attack_y", 0.05), ("hitlag", 0.1), ("stocks", 0.25), ("combo", 0.1),
]  # fmt: skip
EMBEDDED = [
    ("action", 400, 32), ("state_age", 150, 8), ("jumps", 8, 4), ("character", 33, 8), ("l_cancel", 3, 2),
    ("hurtbox", 3, 2), ("ground", 32, 4), ("last_attack", 64, 8),
]  # fmt: skip
BUTTONS = {"A": 8, "B": 9, "X": 10, "Y": 11, "Z": 4, "L": 6, "R": 5, "D_UP": 3}
"""Bit numbers, from the Slippi specification's physical buttons."""
NO_GROUND = 65_535
FRAMES_OF_A_GAME = 25

Row = dict[str, Any]


@pytest.fixture(scope="module")
def chosen(index: GameIndex) -> tuple[Frames, list[list[Row]], list[Row]]:
    """Some frames of every game, the odd ones among them: as the model gets them, and as plain rows of Parquet."""
    games = np.arange(len(index))
    arrays = read_games(index, games)
    offsets = np.cumsum(index.num_frames) - index.num_frames
    row_groups = list(zip(index.shards.tolist(), index.row_groups.tolist(), strict=True))
    tables = {
        (shard, group): pq.ParquetFile(index.corpus.shard_path(shard)).read_row_group(group)
        for shard, group in set(row_groups)
    }
    facts = {row["game_id"]: row for row in index.corpus.games.to_pylist()}
    numbers, rows = [], []
    for game in games:
        table = tables[row_groups[game]].slice(int(index.first_rows[game]), int(index.num_frames[game]))
        picked = frames_worth_a_look(table)
        numbers.append(picked)
        rows.append(table.take(picked).to_pylist())
    batch = take_rows(arrays, index.facts, offsets[:, None] + np.stack(numbers))
    return to_frames(batch), rows, [facts[game_id] for game_id in index.game_ids]


def frames_worth_a_look(table) -> np.ndarray:
    """The first and last frame, a few extremes, and evenly spread ones."""
    age, ground = (table[name].to_numpy() for name in ("p0_state_age", "p1_ground"))
    extremes = [0, len(age) - 1, age.argmin(), age.argmax(), (age % 1).argmax(), (ground == NO_GROUND).argmax()]
    even = np.linspace(0, len(age) - 1, FRAMES_OF_A_GAME - len(extremes)).astype(int)
    return np.sort(np.concatenate([extremes, even]))


def value(row: Row, player: int, name: str) -> float:
    """A raw value; what the version lacks is 0."""
    found = row[f"p{player}_{name}"]
    return 0 if found is None else found


def slow_category(row: Row, player: int, name: str, size: int) -> int:
    raw = value(row, player, name)
    if name == "ground":
        raw = 0 if raw == NO_GROUND else raw + 1
    return min(max(math.floor(raw), 0), size - 1)


def slow_controller(row: Row, player: int) -> list[float]:
    sticks = [(value(row, player, name) / 80 + 1) / 2 for name in ("main_x", "main_y", "c_x", "c_y")]
    buttons = [float(value(row, player, "buttons") >> bit & 1) for bit in BUTTONS.values()]
    return [*sticks, value(row, player, "trigger") / 140, *buttons]


def slow_features(row: Row, game: Row, encoder: FrameEncoder) -> list[float]:
    """The 199 features of one frame, one after another."""
    features: list[float] = []
    for player in (0, 1):
        features += [value(row, player, name) * scale for name, scale in CONTINUOUS]
        features += [
            float(value(row, player, "facing") > 0),
            float(value(row, player, "hurtbox") != 0),
            float(not value(row, player, "airborne")),
        ]
        for name, size, _ in EMBEDDED:
            features += encoder.embeddings[name].weight[slow_category(row, player, name, size)].tolist()
    for player in (0, 1):
        features += slow_controller(row, player)
    features += encoder.stage.weight[min(game["stage"], 32)].tolist()
    return features + [float(game[f"has_{name}"]) for name in ("velocity", "hitlag", "hurtbox")]


def every_frame(rows: list[list[Row]]) -> Iterator[tuple[int, int, Row]]:
    for game, frames in enumerate(rows):
        for number, row in enumerate(frames):
            yield game, number, row


def test_each_feature_of_a_frame_is_what_the_table_says(chosen):
    frames, rows, games = chosen
    encoder = FrameEncoder()
    fast = encoder(frames).detach()
    slow = torch.tensor([[slow_features(row, game, encoder) for row in r] for r, game in zip(rows, games, strict=True)])
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)


def test_a_frame_has_199_features_and_the_controllers_26():
    assert NUM_FRAME_FEATURES == 2 * (12 + 3 + 13 + 32 + 8 + 4 + 8 + 2 + 2 + 4 + 8) + 4 + 3 == 199
    assert NUM_CONTROLLER_FEATURES == 26


def test_each_category_is_its_value_floored_and_clamped(chosen):
    frames, rows, _ = chosen
    for name, size, width in EMBEDDED:
        fast = category(frames, name)
        for game, number, row in every_frame(rows):
            slow = [slow_category(row, player, name, size) for player in (0, 1)]
            assert fast[game, number].tolist() == slow, f"{name} of {row[f'p0_{name}']}, {row[f'p1_{name}']}"
        assert FrameEncoder().embeddings[name].weight.shape == (size, width)


def test_the_controllers_are_shares_of_the_whole_way_and_single_buttons(chosen):
    frames, rows, _ = chosen
    fast = controllers(frames)
    slow = torch.tensor([[slow_controller(row, 0) + slow_controller(row, 1) for row in game] for game in rows])
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
    assert fast.min() >= 0
    assert fast.max() <= 1


def test_no_ground_is_category_0_and_ground_0_is_category_1(chosen):
    frames, rows, _ = chosen
    fast = category(frames, "ground")
    found = {row["p1_ground"]: int(fast[game, number, 1]) for game, number, row in every_frame(rows)}
    assert found[NO_GROUND] == 0
    assert all(index == min(ground + 1, 31) for ground, index in found.items() if ground != NO_GROUND)
    assert len(found) > 2


def test_values_beyond_a_table_go_to_its_ends():
    frames = one_frame(floats={"state_age": -2.0}, codes={"action": 1_000, "ground": 500, "jumps": 9})
    assert category(frames, "state_age").unique().tolist() == [0]
    assert category(frames, "action").unique().tolist() == [399]
    assert category(frames, "ground").unique().tolist() == [31]
    assert category(frames, "jumps").unique().tolist() == [7]
    assert category(one_frame(floats={"state_age": 149.9}, codes={}), "state_age").unique().tolist() == [149]
    assert category(one_frame(floats={"state_age": 198.0}, codes={}), "state_age").unique().tolist() == [149]


def one_frame(*, floats: dict[str, float], codes: dict[str, int]) -> Frames:
    from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS

    frames = Frames(
        floats=torch.zeros(1, 1, 2, len(FLOAT_COLUMNS)),
        codes=torch.zeros(1, 1, 2, len(CODE_COLUMNS), dtype=torch.int16),
        game=torch.zeros(1, len(GAME_COLUMNS), dtype=torch.int16),
    )
    for name, number in floats.items():
        frames.floats[..., FLOAT_COLUMNS.index(name)] = number
    for name, number in codes.items():
        frames.codes[..., CODE_COLUMNS.index(name)] = number
    return frames


def test_a_field_that_a_version_lacks_is_0_and_its_presence_bit_says_so(chosen, index):
    frames, _, games = chosen
    lacking = {name: [not game[f"has_{name}"] for game in games] for name in ("velocity", "hitlag", "hurtbox")}
    if len(index) == 42:
        assert [sum(flags) for flags in lacking.values()] == [13, 19, 12]
    fields = {
        "velocity": [frames.float_column(name) for name in ("self_air_x", "self_y", "attack_x", "attack_y")],
        "hitlag": [frames.float_column("hitlag")],
        "hurtbox": [frames.code_column("hurtbox")],
    }
    for name, flags in lacking.items():
        assert frames.present(name).tolist() == [float(not flag) for flag in flags]
        absent = torch.tensor(flags)
        for column in fields[name]:
            assert not column[absent].any()
            assert column[~absent].any()


def test_every_button_bit_is_used_alone():
    for place, bit in enumerate(BUTTONS.values()):
        features = controllers(one_frame(floats={}, codes={"buttons": 1 << bit}))[0, 0]
        assert features[5:13].tolist() == [float(place == other) for other in range(8)]
    start_and_more = (1 << 12) | 1 | 2 | 4
    assert not controllers(one_frame(floats={}, codes={"buttons": start_and_more}))[0, 0, 5:13].any()


def slow_egocentric_features(row: Row, player: int, after: Row) -> list[float]:
    """Of one player; `after` is the frame whose controllers are known."""
    ahead = 1 if value(row, player, "facing") > 0 else -1
    other = 1 - player
    sticks = [value(after, player, name) / 80 for name in ("main_x", "c_x")]
    speeds = [0.05 * value(row, player, name) for name in ("self_air_x", "self_ground_x", "attack_x")]
    way_x, way_y = (0.05 * (value(row, other, name) - value(row, player, name)) for name in ("x", "y"))
    return [ahead * number for number in (*sticks, *speeds, way_x)] + [way_y]


def test_horizontal_features_are_relative_to_the_facing_direction(chosen):
    frames, rows, _ = chosen
    last = frames.num_frames - 1
    found = egocentric_features(frames.slice(0, last), controllers(frames.slice(1, last + 1)))
    assert found.shape[-1] == NUM_EGOCENTRIC_FEATURES
    slow = [
        [slow_egocentric_features(a, 0, b) + slow_egocentric_features(a, 1, b) for a, b in itertools.pairwise(game)]
        for game in rows
    ]
    torch.testing.assert_close(found, torch.tensor(slow), rtol=1e-6, atol=1e-6)


def test_waves_tell_where_a_player_comes_to(chosen):
    frames, rows, _ = chosen
    displacement = torch.full((*frames.floats.shape[:3], 2), 1.5)
    found = fourier_features(frames, displacement)
    assert found.shape[-1] == NUM_FOURIER_FEATURES
    places = [[[[value(r, p, n) + 1.5 for n in ("x", "y")] for p in (0, 1)] for r in game] for game in rows]
    turns = (
        torch.tensor(places, dtype=torch.float64)[..., None, :]
        * 2
        * math.pi
        / torch.tensor([4.0, 16, 64, 256])[:, None]
    )
    slow = torch.cat([turns.sin().flatten(-2), turns.cos().flatten(-2)], dim=-1).flatten(2)
    torch.testing.assert_close(found.double(), slow, rtol=0, atol=1e-3)


def test_hitstun_and_flags_are_those_of_the_columns_and_unknown_without_them():
    fields = StateFields(hitstun=True, num_flags=len(FLAGS))
    for number, (name, (column, mask)) in enumerate(FLAGS.items()):
        frames = one_frame(floats={"hitstun": 30.0}, codes={column: mask})
        flags = flags_of(frames, len(FLAGS))[0, 0, 0].tolist()
        assert [other for other, is_set in zip(FLAGS, flags, strict=True) if is_set] == [name]
        (unknown,) = state_features(fields, frames)
        assert unknown.abs().max() == 0
        frames.game[:, GAME_COLUMNS.index("has_state_flags")] = 1
        (known,) = state_features(fields, frames)
        assert known.shape[-1] == layout_width(fields.layout)
        expected = [1.5, 1.0, 1.0, *(float(i == number) for i in range(len(FLAGS)))]
        assert known[0, 0].tolist() == [*expected, *expected, 1.0]


def test_older_encodings_see_no_further_fields():
    assert state_fields(ModelConfig(encoding=3)) == state_fields(ModelConfig(encoding=2)) == StateFields()
    assert state_fields(ModelConfig(encoding=4)).layout
