"""The replay reader against slow, obvious reference implementations, on real games."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peppi_py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.replays import slp_reader
from datasets.replays.game import Game
from datasets.replays.slp_reader import HITSTUN_FLAG, final_rows, parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import FIRST_FRAME_ID, OPTIONAL_FIELDS, PLAYER_COLUMNS, POST_COLUMNS, PRE_COLUMNS

OLD_GAME = "07a0e81c2e756696.slp"
"""Slippi 2.0.1, no hurtbox, no velocities, no hitlag."""

INTERNAL_IDS = (2, 3, 1, 24, 4, 5, 6, 17, 0, 18, 16, 8, 9, 12, 10, 15, 13, 14, 19, 7, 22, 20, 21, 26, 23, 25)
"""Internal character id of each external one (SPEC.md, Melee IDs)."""


def slow_value(data: Any, column: str, row: int) -> Any:
    """One value of one player in one row, straight from peppi-py; None where the version has none."""
    post, pre = data.post, data.pre
    plain = {"action": "state", "last_attack": "last_attack_landed", "combo": "combo_count"}
    plain |= {"facing": "direction", "hurtbox": "hurtbox_state"}
    velocity = {"self_air_x": "self_x_air", "self_y": "self_y", "self_ground_x": "self_x_ground"}
    velocity |= {"attack_x": "knockback_x", "attack_y": "knockback_y"}
    if column in ("x", "y"):
        array = getattr(post.position, column)
    elif column in velocity:
        array = post.velocities and getattr(post.velocities, velocity[column])
    elif column.startswith("flags_"):
        array = post.state_flags[int(column[-1])]
    elif column in ("main_x", "main_y"):
        array = getattr(pre.joystick, column[-1])
    elif column in ("c_x", "c_y"):
        array = getattr(pre.cstick, column[-1])
    elif column == "trigger":
        array = pre.triggers
    elif column == "buttons":
        array = pre.buttons_physical
    elif column == "hitstun":
        in_hitstun = post.state_flags[3][row].as_py() & HITSTUN_FLAG
        return post.misc_as[row].as_py() if in_hitstun else 0.0
    else:
        array = getattr(post, plain.get(column, "hitlag" if column == "hitlag" else column))
    return None if array is None else array[row].as_py()


def last_row_of_each_frame(frame_ids: list[int]) -> dict[int, int]:
    """The slow reference of `final_rows`."""
    rows = {}
    for row, frame_id in enumerate(frame_ids):
        rows[frame_id] = row
    return dict(sorted(rows.items()))


def both(read_real: Callable[[str], bytes], tmp_path: Path, file: str) -> tuple[Game, Any]:
    """A game from our reader, and from peppi-py alone."""
    content = read_real(file)
    path = tmp_path / "game.slp"
    path.write_bytes(content)
    return parse_replay(content), peppi_py.read_slippi(str(path))


@pytest.fixture(scope="module")
def varied_games(inventory: list[dict[str, str]]) -> list[str]:
    """Dev games: the smallest of each set of absent fields, Ice Climbers, most rollbacks."""
    dev = sorted((row for row in inventory if row["set"] == "dev"), key=lambda row: int(row["frames"]))
    smallest = {row["fields_none"]: row["file"] for row in reversed(dev)}
    climbers = [row["file"] for row in dev if "Ice Climbers" in row["character_names"]]
    rolled_back = max(dev, key=lambda row: int(row["rollback_rows"]) / int(row["frames"]))["file"]
    return list(dict.fromkeys([*smallest.values(), *climbers[:1], rolled_back]))


def test_every_value_equals_peppi_pys_value_of_the_field(varied_games, read_real, tmp_path):
    for file in varied_games:
        game, peppi = both(read_real, tmp_path, file)
        rows = last_row_of_each_frame(peppi.frames.id.to_pylist())
        frames = random.Random(file).sample(range(game.num_frames), 150)
        for player, port in enumerate(peppi.frames.ports):
            for column in PLAYER_COLUMNS:
                values = game.players[player][column]
                for frame in frames:
                    expected = slow_value(port.leader, column, rows[FIRST_FRAME_ID + frame])
                    if expected is None:
                        assert values is None, (file, column)
                        continue
                    assert values is not None, (file, column)
                    scale = {"trigger": 140}.get(column, 80) if column in PRE_COLUMNS else 1
                    scale = 1 if column == "buttons" else scale
                    found = np.float32(values[frame]) / np.float32(scale)
                    assert found == np.float32(expected), (file, column, frame)


def test_sticks_and_triggers_are_stored_exactly(varied_games, read_real, tmp_path):
    for file in varied_games:
        game, peppi = both(read_real, tmp_path, file)
        rows = list(last_row_of_each_frame(peppi.frames.id.to_pylist()).values())
        for columns, port in zip(game.players, peppi.frames.ports, strict=True):
            pre = port.leader.pre
            sticks = {"main": pre.joystick, "c": pre.cstick}
            arrays = {f"{name}_{axis}": getattr(s, axis) for name, s in sticks.items() for axis in "xy"}
            for name, array in arrays.items():
                exact = array.to_numpy()[rows]
                assert np.array_equal(columns[name].astype(np.float32) / np.float32(80), exact), name
            trigger = columns["trigger"].astype(np.float32) / np.float32(140)
            assert np.array_equal(trigger, pre.triggers.to_numpy()[rows])


def test_the_last_row_of_each_frame_remains_after_rollbacks(inventory, read_real, tmp_path):
    rolled_back = [row for row in inventory if row["set"] == "dev" and int(row["rollback_rows"])]
    assert len(rolled_back) == 14
    for row in sorted(rolled_back, key=lambda row: int(row["frames"]))[:5]:
        game, peppi = both(read_real, tmp_path, row["file"])
        expected = last_row_of_each_frame(peppi.frames.id.to_pylist())
        assert list(expected) == list(range(FIRST_FRAME_ID, FIRST_FRAME_ID + game.num_frames))
        assert game.num_rollback_rows == int(row["rollback_rows"])
        kept = list(expected.values())
        for columns, port in zip(game.players, peppi.frames.ports, strict=True):
            assert np.array_equal(columns["x"], port.leader.post.position.x.to_numpy()[kept])
            assert np.array_equal(columns["buttons"], port.leader.pre.buttons_physical.to_numpy()[kept])


@st.composite
def recorded_frame_ids(draw: st.DrawFn) -> list[int]:
    """Frame ids as netplay records them: ascending, and sometimes back by up to seven frames."""
    ids = [FIRST_FRAME_ID]
    for step in draw(st.lists(st.sampled_from([1, 1, 1, 0, -2, -7]), max_size=60)):
        back = max(FIRST_FRAME_ID, ids[-1] + min(step, 0))
        ids += range(back, ids[-1] + 2) if step <= 0 else [ids[-1] + 1]
    return ids


@given(recorded_frame_ids())
def test_final_rows_equals_its_slow_reference(frame_ids):
    expected = list(last_row_of_each_frame(frame_ids).values())
    rows = final_rows(np.array(frame_ids, dtype=np.int32))
    assert (list(range(len(frame_ids))) if rows is None else rows.tolist()) == expected


@given(st.lists(st.integers(FIRST_FRAME_ID - 2, FIRST_FRAME_ID + 8), min_size=1, max_size=20))
def test_incomplete_frame_ids_are_rejected(frame_ids):
    present = sorted(set(frame_ids))
    complete = present == list(range(FIRST_FRAME_ID, FIRST_FRAME_ID + len(present)))
    try:
        rows = final_rows(np.array(frame_ids, dtype=np.int32))
    except ReplayError as error:
        assert not complete
        assert error.code == ("frame_gap" if present[0] == FIRST_FRAME_ID else "odd_first_frame")
    else:
        assert complete
        assert len(frame_ids if rows is None else rows) == len(present)


def test_columns_have_the_dtypes_of_the_schema(varied_games, read_real):
    for file in varied_games:
        for columns in parse_replay(read_real(file)).players:
            assert list(columns) == list(PLAYER_COLUMNS)
            for name, values in columns.items():
                assert values is None or values.dtype == PLAYER_COLUMNS[name].to_pandas_dtype(), name


def test_only_fields_that_a_version_lacks_are_absent(read_real):
    absent = {name for fields in OPTIONAL_FIELDS.values() for name in fields}
    for columns in parse_replay(read_real(OLD_GAME)).players:
        assert {name for name, values in columns.items() if values is None} == absent


def test_the_ice_climbers_partner_is_stored_in_its_own_frames_only(inventory, read_real, tmp_path):
    file = next(
        row["file"] for row in inventory if row["set"] == "dev" and "Ice Climbers" in row["character_names"].split("|")
    )
    game, peppi = both(read_real, tmp_path, file)
    rows = last_row_of_each_frame(peppi.frames.id.to_pylist())
    (follower,) = game.followers
    port = peppi.frames.ports[follower.player]
    states = port.follower.post.state.to_pylist()
    expected = [frame for frame, row in enumerate(rows.values()) if states[row] is not None]
    assert follower.rows.tolist() == expected
    assert 0 < len(expected) < game.num_frames
    kept = list(rows.values())
    for index in random.Random(0).sample(range(len(expected)), 100):
        for column in ("action", "x", "y", "percent", "character", "stocks"):
            exact = slow_value(port.follower, column, kept[expected[index]])
            assert follower.columns[column][index] == np.float32(exact), column


def test_player_0_is_the_lower_port(inventory, read_real):
    for row in [row for row in inventory if row["set"] == "dev"][::3]:
        game = parse_replay(read_real(row["file"]))
        ports = [player.port for player in game.facts.players]
        assert ports == [int(port) for port in row["port_numbers"].split("|")] == sorted(ports)
        for columns, chosen in zip(game.players, row["characters"].split("|"), strict=True):
            internal = INTERNAL_IDS[int(chosen)]
            assert columns["character"][0] == internal or {internal, columns["character"][0]} == {7, 19}


def test_the_same_game_in_other_bytes_has_the_same_fingerprint(read_real):
    game, copy = (parse_replay(read_real(f"{name}.slp")) for name in ("518a86732694c96b", "b5c188ae887c0171"))
    assert game.game_id != copy.game_id
    assert game.fingerprint == copy.fingerprint


def test_different_games_have_different_fingerprints(varied_games, read_real):
    prints = {parse_replay(read_real(file)).fingerprint for file in varied_games}
    assert len(prints) == len(varied_games)


def test_a_damaged_replay_is_parsed_or_rejected_but_never_crashes_the_reader(varied_games, read_real):
    generator = random.Random(3)
    content = min((read_real(file) for file in varied_games), key=len)
    outcomes = set()
    for trial in range(120):
        damaged = bytearray(content)
        if trial % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        else:
            start, reach = generator.randrange(len(damaged)), len(damaged) if trial % 3 == 1 else 1_500
            for _ in range(4):
                damaged[generator.randrange(reach)] = generator.randrange(256)
            damaged[start : start + 2] = b"\xff\xff"
        try:
            outcomes.add(parse_replay(bytes(damaged)).num_frames > 0)
        except ReplayError as error:
            assert error.message
            outcomes.add(error.code)
    assert len(outcomes) > 2


@pytest.mark.parametrize("content", [b"", b"{", b"<!DOCTYPE html>", b"\x00" * 1_000])
def test_bytes_that_are_not_a_replay_are_rejected(content):
    with pytest.raises(ReplayError) as rejected:
        parse_replay(content)
    assert rejected.value.code == "not_a_replay"


def test_no_column_is_both_pre_frame_and_post_frame():
    assert not set(POST_COLUMNS) & set(PRE_COLUMNS)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("I/O error: failed to fill whole buffer"), "the replay is truncated"),
        (
            ValueError('OutOfSpec("The children must have an equal number of values")'),
            "event is missing in some frames",
        ),
        (ValueError("something new\nand more"), "the parser cannot read this replay (peppi-py: something new)"),
        (KeyError(), "the parser cannot read this replay (peppi-py: KeyError)"),
    ],
)
def test_errors_of_the_parser_are_explained(error, expected, monkeypatch, read_real):
    def fail(path: str, skip_frames: bool) -> None:
        raise error

    monkeypatch.setattr(slp_reader, "read_slippi", fail)
    with pytest.raises(ReplayError) as rejected:
        parse_replay(read_real(OLD_GAME))
    assert expected in rejected.value.message
