"""Every plausibility check detects its kind of damage, and none rejects an undamaged game."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import datasets.synth
from datasets.checks.filters import FilterConfig, check_game
from datasets.checks.plausibility import LEARNED_CHECKS, impossibilities, suspicions
from datasets.checks.plausibility_check import Violation, num_frames_of
from datasets.checks.player_timeline import FIRST_SPECIAL, PlayerTimeline, follower_timelines, player_timelines
from datasets.checks.specification_checks import SPECIFICATION_CHECKS
from datasets.replays.game import Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.reject_reasons import REJECT_REASONS
from datasets.schema.suspect_rules import SUSPECT_RULES, suspect_bits, suspect_rules_in
from datasets.synth import SimulatedGame, SynthOptions, simulate, synthesize

GOOD_GAME = "1b72eddbd56faf6f.slp"
"""Slippi 3.17, Battlefield, ports 1 and 3, no rollbacks, all fields."""
PRE, POST = 0x37, 0x38
"""Command bytes of the events before and after a frame (SPEC.md)."""
THIRD_PORT = 2

FrameMask = Callable[[PlayerTimeline], np.ndarray]


def mid_action(timeline: PlayerTimeline) -> np.ndarray:
    """Frames in the middle of an action whose state age advances."""
    runs = timeline.steady & (np.diff(timeline["state_age"]) > 0)[:-1] & (np.diff(timeline["state_age"]) > 0)[1:]
    mid_action = np.zeros(len(timeline["action"]), bool)
    mid_action[4:-4] = runs[3:-3] & runs[2:-4] & runs[4:-2] & runs[1:-5] & runs[5:-1]
    return mid_action & (timeline["state_age"] > 1) & (timeline["shield"] == 60)


def flying(timeline: PlayerTimeline) -> np.ndarray:
    return mid_action(timeline) & timeline.airborne & np.isin(timeline["action"], (29, 65, 66, 67, 68, 69))


def walking(timeline: PlayerTimeline) -> np.ndarray:
    return mid_action(timeline) & ~timeline.airborne & (timeline["action"] < FIRST_SPECIAL)


def mid_hitlag(timeline: PlayerTimeline) -> np.ndarray:
    middle = np.zeros(len(timeline["action"]), bool)
    middle[2:-2] = (
        timeline.in_hitlag[1:-3]
        & timeline.in_hitlag[2:-2]
        & timeline.in_hitlag[3:-1]
        & timeline.same_action[1:-2]
        & timeline.same_action[2:-1]
    )
    return middle


def many_stocks_left(timeline: PlayerTimeline) -> np.ndarray:
    return mid_action(timeline) & (timeline["stocks"] > 2)


def late_flying(timeline: PlayerTimeline) -> np.ndarray:
    return flying(timeline) & (timeline["state_age"] > 14)


def changed(by: float) -> Callable[[float], float]:
    return lambda value: value + by


def with_bits(bits: int) -> Callable[[int], int]:
    return lambda value: value ^ bits


def to(value: float) -> Callable[[float], float]:
    return lambda _: value


@dataclass(frozen=True)
class Damage:
    """A changed value in one event of the player on the third port."""

    event: int
    offset: int
    """Offset of the value from the event's command byte (SPEC.md)."""
    kind: str
    """Format for `struct`."""
    change: Callable
    code: str
    where: FrameMask = mid_action


DAMAGE = {
    "increasing stocks": Damage(POST, 0x21, ">B", changed(1), "stocks_jump"),
    "stocks dropping by two": Damage(POST, 0x21, ">B", changed(-2), "stocks_jump", many_stocks_left),
    "a character that was not selected": Damage(POST, 0x7, ">B", to(5), "character_mismatch"),
    "slightly more percent": Damage(POST, 0x16, ">f", changed(0.01), "percent_falls"),
    "pre-frame percent": Damage(PRE, 0x3C, ">f", changed(0.01), "pre_post_mismatch"),
    "another action": Damage(POST, 0x8, ">H", with_bits(1), "pre_post_mismatch"),
    "another action in hitlag": Damage(POST, 0x8, ">H", with_bits(1), "pre_post_mismatch", mid_hitlag),
    "slightly to the right": Damage(POST, 0xA, ">f", changed(0.01), "pre_post_mismatch", walking),
    "slightly higher": Damage(POST, 0xE, ">f", changed(0.01), "pre_post_mismatch", flying),
    "slightly higher in a special move": Damage(
        POST, 0xE, ">f", changed(0.01), "pre_post_mismatch", lambda t: mid_action(t) & (t["action"] >= FIRST_SPECIAL)
    ),
    "far away in hitlag": Damage(POST, 0xE, ">f", changed(12), "pre_post_mismatch", mid_hitlag),
    "too far for one frame": Damage(POST, 0xA, ">f", changed(150), "position_jump", mid_hitlag),
    "far away and back": Damage(POST, 0xE, ">f", changed(40), "position_reverts", mid_hitlag),
    "half a facing": Damage(POST, 0x12, ">f", to(0.5), "bad_values"),
    "a stick between steps": Damage(PRE, 0x19, ">f", to(0.5001), "off_grid"),
    "a c-stick between steps": Damage(PRE, 0x25, ">f", to(-0.7001), "off_grid"),
    "a trigger between steps": Damage(PRE, 0x29, ">f", to(0.5001), "off_grid"),
    "a physical button": Damage(PRE, 0x31, ">H", with_bits(0x600), "buttons_mismatch"),
    "a processed button": Damage(PRE, 0x2D, ">I", with_bits(0x600), "buttons_mismatch"),
    "an unused button bit": Damage(PRE, 0x2D, ">I", with_bits(0x0100_0000), "buttons_mismatch"),
    "a shield that shrinks while it is down": Damage(POST, 0x1A, ">f", changed(-1), "shield_jump"),
    "a shield that grows too fast": Damage(
        POST, 0x1A, ">f", changed(1), "shield_jump", lambda t: (t["shield"] < 58) & (t["action"] == 14)
    ),
    "hitlag without its flag": Damage(POST, 0x49, ">f", to(3), "hitlag_mismatch"),
    "half a frame of hitlag": Damage(POST, 0x49, ">f", changed(0.5), "hitlag_mismatch", mid_hitlag),
    "half a frame of hitstun": Damage(POST, 0x2B, ">f", changed(0.5), "unusual_value", lambda t: t["hitstun"] > 2),
    "hit by a port that does not exist": Damage(POST, 0x20, ">B", to(9), "bad_values"),
    "a surface that does not exist": Damage(POST, 0x30, ">H", to(200), "unusual_value"),
    "an undefined l-cancel value": Damage(POST, 0x33, ">B", to(3), "bad_values"),
    "another last attack": Damage(POST, 0x1E, ">B", with_bits(16), "one_frame_value"),
    "another combo": Damage(POST, 0x1F, ">B", with_bits(16), "one_frame_value"),
    "another number of jumps": Damage(POST, 0x32, ">B", with_bits(1), "one_frame_value"),
    "flag byte 1": Damage(POST, 0x26, ">B", with_bits(0x05), "one_frame_value"),
    "flag byte 2": Damage(POST, 0x27, ">B", with_bits(0x41), "one_frame_value"),
    "flag byte 3": Damage(POST, 0x28, ">B", with_bits(0x03), "one_frame_value"),
    "flag byte 4": Damage(POST, 0x29, ">B", with_bits(0x82), "one_frame_value"),
    "flag byte 5": Damage(POST, 0x2A, ">B", with_bits(0x03), "one_frame_value"),
    "a fractional state age": Damage(POST, 0x22, ">f", changed(0.01), "one_frame_value"),
    "a state age that jumps ahead": Damage(POST, 0x22, ">f", changed(30), "one_frame_value"),
    "a state age that jumps back": Damage(POST, 0x22, ">f", changed(-9), "one_frame_value", late_flying),
    "a state age that changes in hitlag": Damage(POST, 0x22, ">f", changed(0.25), "one_frame_value", mid_hitlag),
    "a velocity that changes in hitlag": Damage(POST, 0x39, ">f", changed(0.25), "one_frame_value", mid_hitlag),
    "another air velocity, x": Damage(POST, 0x35, ">f", changed(0.5), "velocity_mismatch", flying),
    "another air velocity, y": Damage(POST, 0x39, ">f", changed(0.5), "velocity_mismatch", flying),
    "other knockback in the air": Damage(
        POST, 0x3D, ">f", changed(0.5), "velocity_mismatch", lambda t: flying(t) & (t["attack_x"] != 0)
    ),
    "ground speed in the air": Damage(POST, 0x45, ">f", to(0.5), "velocity_mismatch", flying),
    "another ground speed": Damage(POST, 0x45, ">f", changed(0.3), "velocity_mismatch", walking),
    "another vertical velocity on the ground": Damage(POST, 0x39, ">f", changed(0.3), "velocity_mismatch", walking),
    "knockback without a hit": Damage(
        POST, 0x3D, ">f", to(0.5), "velocity_mismatch", lambda t: walking(t) & (t["attack_x"] == 0)
    ),
}  # fmt: skip


def damaged(content: bytes, damage: Damage, frame: int, port: int, *, is_follower: bool = False) -> bytes:
    """A replay with one number of one event changed."""
    head = struct.pack(">BiBB", damage.event, frame + FIRST_FRAME_ID, port, is_follower)
    assert content.count(head) == 1, "the frame was sent once"
    at = content.index(head) + damage.offset
    (value,) = struct.unpack_from(damage.kind, content, at)
    new = struct.pack(damage.kind, damage.change(value))
    assert new != struct.pack(damage.kind, value)
    return content[:at] + new + content[at + len(new) :]


def violations_of(game: Game) -> list[Violation]:
    """The rules of both kinds that a game breaks."""
    return [*impossibilities(game), *(suspicions(game) or [])]


def codes_of(game: Game, filters: FilterConfig = FilterConfig(strict=True)) -> set[str]:  # noqa: B008
    """All reject codes in the message; empty if the game is accepted."""
    try:
        check_game(game, filters)
    except ReplayError as error:
        codes = [part.split(":")[0] for part in error.message.split("; ")]
        assert codes[0] == error.code
        return set(codes)
    return set()


@pytest.fixture(scope="module")
def good(read_real) -> tuple[bytes, PlayerTimeline]:
    """An undamaged replay, and the timeline of its second player."""
    content = read_real(GOOD_GAME)
    game = parse_replay(content)
    assert not game.num_rollback_rows and not codes_of(game)
    return content, player_timelines(game)[1]


@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_detected_by_its_check(name, good):
    content, timeline = good
    damage = DAMAGE[name]
    frames = np.flatnonzero(damage.where(timeline))
    assert len(frames), "the game has such a frame"
    codes = codes_of(parse_replay(damaged(content, damage, int(frames[len(frames) // 2]), THIRD_PORT)))
    assert damage.code in codes


def test_good_games_are_plausible(inventory, read_real):
    dev = [row["file"] for row in inventory if row["set"] == "dev"]
    assert len(dev) == 42
    for file in dev:
        assert violations_of(parse_replay(read_real(file))) == [], file


def test_unusual_games_are_possible(inventory, read_real):
    """Games with CPU players, items, other modes and stages have possible values, whether they are accepted or not."""
    checked = 0
    for row in inventory:
        if row["set"] != "edge":
            continue
        try:
            game = parse_replay(read_real(row["file"]))
        except ReplayError:
            continue
        assert impossibilities(game) == [], row["file"]
        checked += 1
    assert checked > 20


@pytest.fixture(scope="module")
def simulated() -> list[SimulatedGame]:
    """Three games, which can be written in any version."""
    return list(simulate(SynthOptions(num_games=3, seed=5, max_frames=3_000)))


@pytest.mark.parametrize("version", ["2.0.0", "2.2.0", "3.7.0", "3.9.0", "3.16.0"])
def test_synthetic_games_are_plausible(version, simulated, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.synth, "simulate", lambda options: iter(simulated))
    netplay = version > "3"
    options = SynthOptions(num_games=3, seed=5, version=version, max_frames=3_000, rollbacks=netplay)
    synthesize(tmp_path / "replays", options)
    for path in (tmp_path / "replays").rglob("*.slp"):
        assert violations_of(parse_replay(path.read_bytes())) == []


@pytest.mark.parametrize(
    "name", ["increasing stocks", "slightly to the right", "a stick between steps", "another action"]
)
def test_damage_is_detected_in_synthetic_games(name, synthetic_replays: Path):
    damage = DAMAGE[name]
    content = next(path for path in sorted(synthetic_replays.rglob("*.slp"))).read_bytes()
    game = parse_replay(content)
    timeline = player_timelines(game)[1]
    frames = np.flatnonzero(damage.where(timeline))
    port = game.facts.players[1].port
    assert port is not None
    once = [frame for frame in frames if content.count(struct.pack(">iBB", frame + FIRST_FRAME_ID, port - 1, 0)) == 2]
    found = violations_of(parse_replay(damaged(content, damage, int(once[len(once) // 2]), port - 1)))
    assert damage.code in {violation.code for violation in found}


def test_a_recording_that_ends_before_the_last_frame_of_its_metadata_is_cut_short(good):
    content, timeline = good
    key = b"lastFramel"
    at = content.index(key) + len(key)
    last_frame = len(timeline["action"]) - 1 + FIRST_FRAME_ID
    assert struct.unpack_from(">i", content, at) == (last_frame,)
    assert codes_of(parse_replay(content[:at] + struct.pack(">i", last_frame + 60) + content[at + 4 :])) == {
        "cut_short"
    }


def test_a_message_names_the_player_and_the_frame(good):
    content, timeline = good
    frame = int(np.flatnonzero(mid_action(timeline))[0])
    game = parse_replay(damaged(content, DAMAGE["increasing stocks"], frame, THIRD_PORT))
    (found,) = violations_of(game)
    assert found.code == "stocks_jump"
    assert "player 1" in found.message and f"frame {frame + FIRST_FRAME_ID}" in found.message
    assert found.frames.tolist() == [frame]


def test_a_message_names_all_damage(good):
    content, timeline = good
    frame = int(np.flatnonzero(mid_action(timeline))[0])
    for name in ("increasing stocks", "a stick between steps", "a physical button"):
        content = damaged(content, DAMAGE[name], frame, THIRD_PORT)
    assert codes_of(parse_replay(content)) == {"stocks_jump", "off_grid", "buttons_mismatch"}


def test_a_flag_counts_the_frames_however_many_there_are(good):
    content, timeline = good
    frames = np.flatnonzero(mid_action(timeline))[::20][:30].tolist()
    for frame in frames:
        content = damaged(content, DAMAGE["a physical button"], frame, THIRD_PORT)
    suspect = check_game(parse_replay(content), FilterConfig())
    assert suspect is not None and {found.code for found in suspect} == {"buttons_mismatch"}
    assert num_frames_of(suspect) == 30


def test_the_sticks_of_cpu_players_may_lie_between_steps(inventory, read_real):
    row = next(row for row in inventory if row["set"] == "edge" and row["why"] == "cpu_player")
    game = parse_replay(read_real(row["file"]))
    assert game.cross_check is not None
    assert any(seen.off_grid for seen in game.cross_check.players)
    assert codes_of(game) == {"cpu_player"}
    assert codes_of(game, FilterConfig(allow_cpu=True, strict=True)) == set()


def test_games_that_may_hold_rollback_frames_are_not_checked(good):
    content, timeline = good
    frame = int(np.flatnonzero(mid_action(timeline))[0])
    game = parse_replay(damaged(content, DAMAGE["increasing stocks"], frame, THIRD_PORT))
    assert violations_of(dataclasses.replace(game, may_hold_rollbacks=True)) == []


def test_games_without_cross_check_values_are_checked_by_their_columns(good):
    content, timeline = good
    sound = dataclasses.replace(parse_replay(content), cross_check=None)
    assert violations_of(sound) == []
    frame = int(np.flatnonzero(mid_action(timeline))[0])
    game = parse_replay(damaged(content, DAMAGE["slightly more percent"], frame, THIRD_PORT))
    assert {found.code for found in violations_of(dataclasses.replace(game, cross_check=None))} == {"percent_falls"}


def test_checks_skip_columns_that_the_source_lacks(good):
    content, _ = good
    game = parse_replay(content)
    for name in game.players[0]:
        players = tuple(columns | {name: None} for columns in game.players)
        assert violations_of(dataclasses.replace(game, players=players)) == [], name


def test_the_ice_climbers_partner_is_checked(inventory, read_real):
    file = next(row["file"] for row in inventory if row["set"] == "dev" and "Ice Climbers" in row["character_names"])
    content = read_real(file)
    game = parse_replay(content)
    (follower,) = game.followers
    assert sum(len(timeline["action"]) for timeline in follower_timelines(game)) == len(follower.rows)
    port = game.facts.players[follower.player].port
    assert port is not None
    frame = int(follower.rows[len(follower.rows) // 2])
    damage = DAMAGE["hitlag without its flag"]
    found = violations_of(parse_replay(damaged(content, damage, frame, port - 1, is_follower=True)))
    assert {violation.code for violation in found} == {damage.code}


def test_the_masks_of_a_timeline_match_their_definitions(good):
    _, timeline = good
    action, before, in_hitlag = (
        values.tolist() for values in (timeline["action"], timeline.pre_frame("action"), timeline.in_hitlag)
    )
    for frame in range(1, len(action)):
        stays = action[frame] == action[frame - 1] == before[frame]
        assert bool(timeline.same_action[frame - 1]) == stays
        assert bool(timeline.uninterrupted[frame - 1]) == (stays and not in_hitlag[frame] and not in_hitlag[frame - 1])
    for frame in range(1, len(action) - 1):
        assert timeline.steady[frame - 1] == (timeline.uninterrupted[frame - 1] and timeline.uninterrupted[frame])


def test_every_check_needs_existing_columns(good):
    _, timeline = good
    for check in (*SPECIFICATION_CHECKS, *LEARNED_CHECKS):
        assert check.columns <= timeline.names
        assert check.pre_frame_columns <= timeline.pre_frame_names


@pytest.mark.parametrize("name", DAMAGE)
def test_a_learned_rule_flags_a_game_and_a_rule_of_the_specification_refuses_it(name, good):
    content, timeline = good
    damage = DAMAGE[name]
    frames = np.flatnonzero(damage.where(timeline))
    game = parse_replay(damaged(content, damage, int(frames[len(frames) // 2]), THIRD_PORT))
    if impossibilities(game):
        with pytest.raises(ReplayError):
            check_game(game, FilterConfig())
        assert not {found.code for found in impossibilities(game)} & SUSPECT_RULES.keys()
    else:
        suspect = check_game(game, FilterConfig())
        assert suspect and {found.code for found in suspect} <= SUSPECT_RULES.keys()
        assert num_frames_of(suspect) >= 1
        assert codes_of(game) == {found.code for found in suspect}


def test_suspect_rules_keep_their_bits():
    """The bits are stored: a change here makes older corpora unreadable."""
    assert list(SUSPECT_RULES.items()) == [
        ("off_grid", 0), ("percent_falls", 1), ("pre_post_mismatch", 2), ("buttons_mismatch", 3), ("shield_jump", 4),
        ("hitlag_mismatch", 5), ("one_frame_value", 6), ("velocity_mismatch", 7), ("position_reverts", 8),
        ("unusual_value", 9),
    ]  # fmt: skip
    assert suspect_bits(["percent_falls", "unusual_value", "percent_falls"]) == 0b10_0000_0010
    assert suspect_rules_in(0b10_0000_0010) == ["percent_falls", "unusual_value"]
    assert suspect_rules_in(1 << 20) == ["rule 20"]
    assert SUSPECT_RULES.keys() <= REJECT_REASONS.keys()
