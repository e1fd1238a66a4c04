"""Replays of Slippi 3.0 to 3.6 are rewritten for peppi-py without changing a value."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
from slp_events import events_of, with_events

from datasets.checks.filters import FilterConfig, check_game
from datasets.replays.event_repair import needs_repair, repair
from datasets.replays.game import Columns, Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.reject_reasons import REJECT_REASONS

START, PRE, POST, END, FRAME_START, ITEM, BOOKEND = 0x36, 0x37, 0x38, 0x39, 0x3A, 0x3B, 0x3C

# SPEC.md, Post-Frame Update: column -> offset from the command byte, format, version of Slippi since.
POST_FIELDS = {
    "character": (0x7, "B", (2, 0)), "action": (0x8, "H", (2, 0)), "x": (0xA, "f", (2, 0)), "y": (0xE, "f", (2, 0)),
    "facing": (0x12, "f", (2, 0)), "percent": (0x16, "f", (2, 0)), "shield": (0x1A, "f", (2, 0)),
    "last_attack": (0x1E, "B", (2, 0)), "combo": (0x1F, "B", (2, 0)), "last_hit_by": (0x20, "B", (2, 0)),
    "stocks": (0x21, "B", (2, 0)), "state_age": (0x22, "f", (2, 0)), "flags_0": (0x26, "B", (2, 0)),
    "flags_1": (0x27, "B", (2, 0)), "flags_2": (0x28, "B", (2, 0)), "flags_3": (0x29, "B", (2, 0)),
    "flags_4": (0x2A, "B", (2, 0)), "hitstun": (0x2B, "f", (2, 0)), "airborne": (0x2F, "B", (2, 0)),
    "ground": (0x30, "H", (2, 0)), "jumps": (0x32, "B", (2, 0)), "l_cancel": (0x33, "B", (2, 0)),
    "hurtbox": (0x34, "B", (2, 1)), "self_air_x": (0x35, "f", (3, 5)), "self_y": (0x39, "f", (3, 5)),
    "attack_x": (0x3D, "f", (3, 5)), "attack_y": (0x41, "f", (3, 5)), "self_ground_x": (0x45, "f", (3, 5)),
    "hitlag": (0x49, "f", (3, 8)),
}  # fmt: skip
# SPEC.md, Pre-Frame Update: column -> offset, format, steps of the stick or trigger from rest to its end.
PRE_FIELDS = {
    "main_x": (0x19, "f", 80), "main_y": (0x1D, "f", 80), "c_x": (0x21, "f", 80), "c_y": (0x25, "f", 80),
    "trigger": (0x29, "f", 140), "buttons": (0x31, "H", 1),
}  # fmt: skip

SIZES_BY_VERSION = {
    (3, 0): {POST: 52, ITEM: 37}, (3, 2): {POST: 52, ITEM: 41}, (3, 4): {POST: 52, ITEM: 41},
    (3, 5): {POST: 72, ITEM: 41}, (3, 6): {POST: 72, ITEM: 42},
}  # fmt: skip
"""Payload sizes that differ between 3.0 and 3.6 (SPEC.md, Added): velocities in 3.5, items in 3.2 and 3.6."""
SIZES = {START: 418, PRE: 63, END: 2, FRAME_START: 8, BOOKEND: 4}
"""Payload sizes that these versions share."""


def read_slowly(content: bytes) -> tuple[tuple[int, int, int], dict[tuple[int, bool], dict[int, dict[str, float]]]]:
    """The version, and by (port, is follower): frame id -> column -> value of the last event with the id."""
    _, events, _ = events_of(content)
    version = (events[0][1], events[0][2], events[0][3])
    found: dict[tuple[int, bool], dict[int, dict[str, float]]] = {}
    for event in events:
        if event[0] not in (PRE, POST):
            continue
        frame, port, is_follower = struct.unpack(">iB?", event[1:7])
        values = found.setdefault((port, is_follower), {}).setdefault(frame, {})
        if event[0] == PRE:
            for name, (at, kind, steps) in PRE_FIELDS.items():
                values[name] = round(struct.unpack_from(">" + kind, event, at)[0] * steps)
            continue
        for name, (at, kind, since) in POST_FIELDS.items():
            if version[:2] >= since:
                values[name] = struct.unpack_from(">" + kind, event, at)[0]
        values["facing"] = np.sign(values["facing"])
        if not int(values["flags_3"]) & 0x02:
            values["hitstun"] = 0.0
    return version, found


def as_written_by(content: bytes, version: tuple[int, int]) -> bytes:
    """A newer replay as `version` (3.0 to 3.6) would have written it, without later fields and events."""
    sizes, events, rest = events_of(content)
    kept = {code: size for code, size in sizes.items() if code < 0x3F} | SIZES | SIZES_BY_VERSION[version]
    assert all(kept[code] <= sizes.get(code, 99) for code in SIZES | SIZES_BY_VERSION[version])
    cut = [event[: 1 + kept[event[0]]] for event in events if event[0] in kept]
    cut[0] = cut[0][:1] + bytes([*version, 0]) + cut[0][4:]
    return with_events(kept, cut, rest)


def assert_same_columns(one: Columns, other: Columns, absent: set[str]) -> None:
    """Assert equal values, and null for fields that the version lacks."""
    for name, values in one.items():
        if name in absent:
            assert values is None, name
        else:
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def assert_as_read_slowly(game: Game, content: bytes) -> None:
    """Compare every stored column of every frame with `read_slowly`."""
    version, found = read_slowly(content)
    assert game.facts.slippi_version == version
    ports = sorted({port for port, _ in found})
    assert [player.port for player in game.facts.players] == [port + 1 for port in ports]
    parts = [((port, False), range(game.num_frames), game.players[player]) for player, port in enumerate(ports)]
    parts += [((ports[part.player], True), part.rows, part.columns) for part in game.followers]
    for key, rows, columns in parts:
        by_frame = found.pop(key)
        assert sorted(by_frame) == [int(row) - 123 for row in rows]
        slow = [by_frame[frame] for frame in sorted(by_frame)]
        for name, values in columns.items():
            if name not in slow[0]:
                assert values is None and version[:2] < POST_FIELDS[name][2], name
                continue
            assert values is not None, name
            expected = np.array([row[name] for row in slow]).astype(values.dtype)
            np.testing.assert_array_equal(values, expected, err_msg=name)
    assert not found


@pytest.fixture(scope="module")
def unreadable(inventory, read_real) -> list[bytes]:
    """The real replays of Slippi 3.0 to 3.6."""
    minors = [f"3.{minor}." for minor in range(7)]
    found = [read_real(row["file"]) for row in inventory if row["slippi_version"][:4] in minors]
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def newer(inventory, read_real) -> dict[str, bytes]:
    """Good replays of 3.7 and later: one of 3.18, one with the Ice Climbers, and the one with the most rollbacks."""
    good = [row for row in inventory if row["set"] == "dev" and row["slippi_version"].startswith("3.")]
    chosen = {
        "newest": next(row for row in good if row["slippi_version"] == "3.18.0"),
        "ice climbers": next(row for row in good if "14" in row["characters"].split("|")),
        "rollbacks": max(good, key=lambda row: int(row["rollback_rows"])),
    }
    return {name: read_real(row["file"]) for name, row in chosen.items()}


def test_every_value_of_a_real_old_game_equals_the_file(unreadable):
    for content in unreadable:
        game = parse_replay(content, repair_old=True)
        assert game.num_frames > 1_000
        assert_as_read_slowly(game, content)


def test_a_game_keeps_the_id_and_version_of_the_original_file(unreadable):
    for content in unreadable:
        game = parse_replay(content, repair_old=True)
        assert game.game_id == hashlib.md5(content).hexdigest()
        assert game.facts.slippi_version == tuple(content[content.index(b"\x36", 17 + content[16] - 1) :][1:4])


def test_repair_is_off_by_default(unreadable):
    for content in unreadable:
        with pytest.raises(ReplayError, match=r"parser_failed: peppi-py cannot read Slippi 3.*use --repair-old"):
            parse_replay(content)


@pytest.mark.parametrize("kind", ["newest", "ice climbers", "rollbacks"])
@pytest.mark.parametrize("version", sorted(SIZES_BY_VERSION))
def test_a_newer_game_in_an_old_version_has_the_same_values(kind, version, newer):
    content = newer[kind]
    old_version = as_written_by(content, version)
    expected, game = parse_replay(content, repair_old=True), parse_replay(old_version, repair_old=True)
    assert game.facts.slippi_version == (*version, 0)
    assert (game.num_frames, game.num_rollback_rows) == (expected.num_frames, expected.num_rollback_rows)
    assert game.fingerprint == expected.fingerprint
    assert (game.facts.start_time, game.facts.end_method) == (expected.facts.start_time, expected.facts.end_method)
    absent = {name for name, (_, _, since) in POST_FIELDS.items() if version < since}
    for one, other in zip(game.players, expected.players, strict=True):
        assert_same_columns(one, other, absent)
    for one, other in zip(game.followers, expected.followers, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        assert_same_columns(one.columns, other.columns, absent)


def test_the_rewritten_games_contain_items_followers_and_rollbacks(newer):
    codes = {name: {event[0] for event in events_of(content)[1]} for name, content in newer.items()}
    assert any(ITEM in found for found in codes.values())
    assert parse_replay(newer["ice climbers"], repair_old=True).followers
    assert parse_replay(newer["rollbacks"], repair_old=True).num_rollback_rows > 1_000


def test_a_synthetic_game_in_an_old_version_has_the_same_values(synthetic_replays):
    content = sorted(synthetic_replays.rglob("*.slp"))[0].read_bytes()
    for version in SIZES_BY_VERSION:
        old_version = as_written_by(content, version)
        game = parse_replay(old_version, repair_old=True)
        assert_as_read_slowly(game, old_version)
        assert game.fingerprint == parse_replay(content, repair_old=True).fingerprint


def test_other_versions_and_other_files_are_not_rewritten(inventory, read_real, unreadable):
    for row in inventory:
        if row["set"] == "edge" and (content := read_real(row["file"])) not in unreadable:
            assert repair(content) is None, row["file"]


def test_only_versions_3_0_to_3_6_need_repair():
    needing = [(major, minor) for major in range(5) for minor in range(20) if needs_repair((major, minor, 1))]
    assert needing == [(3, minor) for minor in range(7)]


def test_a_version_that_does_not_match_its_fields_is_not_repaired(unreadable):
    for content in unreadable:
        at = 16 + content[16]
        other = 6 if content[at + 2] < 5 else 3
        wrong = content[: at + 2] + bytes([other]) + content[at + 3 :]
        assert repair(wrong) is None
        with pytest.raises(ReplayError):
            parse_replay(wrong, repair_old=True)


def damaged(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The file with one kind of damage."""
    values = np.frombuffer(content, np.uint8).copy()
    if kind == "truncated":
        return content[: int(rng.integers(len(content)))]
    if kind == "zeroed":
        at = rng.integers(len(content))
        values[at : at + 4_096] = 0
    else:
        span = 700 if kind == "header" else len(content)
        places = rng.integers(11, span, 1 if kind == "one byte" else 8)
        values[places] = rng.integers(0, 256, len(places))
    return values.tobytes()


@pytest.mark.parametrize("kind", ["one byte", "eight bytes", "header", "zeroed", "truncated"])
def test_a_damaged_old_game_is_read_correctly_or_rejected(kind, unreadable):
    content = next(replay for replay in unreadable if len(replay) < 1_000_000)
    rng = np.random.default_rng(36)
    outcomes = []
    for _ in range(40):
        wrong = damaged(content, kind, rng)
        try:
            game = parse_replay(wrong, repair_old=True)
            check_game(game, FilterConfig(min_frames=1, min_damage_percent=0.0))
        except ReplayError as error:
            assert error.code in REJECT_REASONS
            outcomes.append(error.code)
        else:
            assert_as_read_slowly(game, wrong)
            outcomes.append("accepted")
    assert set(outcomes) - {"accepted"}
    assert kind != "truncated" or "accepted" not in outcomes


def test_a_truncated_old_game_is_rejected(newer):
    content = as_written_by(newer["newest"], (3, 6))
    for share in (0.0001, 0.01, 0.3, 0.9, 0.999):
        with pytest.raises(ReplayError):
            parse_replay(content[: int(len(content) * share)], repair_old=True)
