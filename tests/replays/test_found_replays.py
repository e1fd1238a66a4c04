"""What good games do, though the games that the rules were learned from did not: none of it flags or refuses a game."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.checks.filters import FilterConfig, check_game
from datasets.checks.plausibility import suspicions
from datasets.checks.player_timeline import PlayerTimeline, player_timelines
from datasets.replays.game import NO_CONTEST, Columns, Game
from datasets.replays.slp_reader import parse_replay

GOOD_GAMES = {
    "first_drift_of_cutter_3.6": "velocity_mismatch",
    "ground_speed_kept_in_air": "velocity_mismatch",
    "ground_touched_for_one_frame": "one_frame_value",
    "half_speed_throw_items_on": "one_frame_value",
    "tether_one_ulp": "pre_post_mismatch",
    "walk_at_changing_speed": "one_frame_value",
}
"""Public replays in found/ -> the rule that once rejected them."""
ANYTHING = FilterConfig(min_frames=1, min_damage_percent=0.0, num_stocks=0, allow_idle=True, allow_items=True)


@pytest.fixture(scope="module")
def read_found(real_replays: Path) -> Callable[[str], Game]:
    """A replay of found/, parsed."""
    folder = real_replays / "found"
    if not folder.exists():
        pytest.skip(f"needs {folder.name}/ beside the real replays")
    return lambda name: parse_replay(gzip.decompress((folder / f"{name}.slp.gz").read_bytes()), repair_old=True)


@pytest.fixture(scope="module")
def synthetic(synthetic_replays: Path) -> Game:
    """An unflagged synthetic game."""
    game = parse_replay(next(iter(sorted(synthetic_replays.rglob("*.slp")))).read_bytes())
    assert suspicions(game) == []
    return game


@pytest.mark.parametrize("name", GOOD_GAMES)
def test_a_good_game_is_neither_refused_nor_flagged(name, read_found):
    assert check_game(read_found(name), ANYTHING) == []


def test_the_player_who_quits_loses_whatever_the_placements_say(read_found, synthetic):
    assert read_found("quitter_wins").winner == 1
    facts = dataclasses.replace(synthetic.facts, end_method=NO_CONTEST, placements=(0, 1), quitter=0)
    assert dataclasses.replace(synthetic, facts=facts).winner == 1


def with_end(game: Game, **ends: tuple[float, float]) -> Game:
    """The game with other last values of both players."""
    players = []
    for player, columns in enumerate(game.players):
        changed = {name: np.array(columns[name]) for name in ends}
        for name, values in changed.items():
            values[-1] = ends[name][player]
        players.append(columns | changed)
    return dataclasses.replace(game, players=tuple(players))


@pytest.mark.parametrize(
    ("end_method", "placements", "quitter", "stocks", "percent", "winner"),
    [
        (2, (1, 0), None, (0, 2), (0.0, 10.0), 1),
        (2, (0, 1), None, (1, 1), (5.0, 5.0), None),
        (1, None, None, (1, 1), (5.0, 6.0), 0),
        (1, (0, 1), None, (1, 1), (5.0, 5.0), None),
        (NO_CONTEST, (0, 1), None, (1, 3), (5.0, 5.0), 1),
        (NO_CONTEST, (0, 1), None, (2, 2), (5.0, 5.0), None),
        (NO_CONTEST, (0, 1), 0, (4, 1), (5.0, 5.0), 1),
        (NO_CONTEST, (0, 1), 1, (2, 2), (5.0, 5.0), 0),
        (None, None, None, (2, 1), (99.0, 5.0), 0),
    ],
)
def test_the_winner_follows_from_who_quit_then_placements_then_stocks_then_percent(
    end_method, placements, quitter, stocks, percent, winner, synthetic
):
    facts = dataclasses.replace(synthetic.facts, end_method=end_method, placements=placements, quitter=quitter)
    game = with_end(dataclasses.replace(synthetic, facts=facts), stocks=stocks, percent=percent)
    assert game.winner == winner


def test_a_synthetic_player_who_quits_loses(synthetic_replays):
    games = [parse_replay(path.read_bytes()) for path in sorted(synthetic_replays.rglob("*.slp"))]
    quits = [game for game in games if game.facts.end_method == NO_CONTEST]
    assert quits
    assert all(game.facts.quitter is not None and game.winner == 1 - game.facts.quitter for game in quits)


def middle_of(timeline: PlayerTimeline, num_frames: int, *, airborne: bool) -> int:
    """First frame of a run of one action without hitlag, whose state age advances by one, with a margin of 3 frames."""
    calm = timeline.uninterrupted & (np.diff(timeline["state_age"]) == 1) & (timeline.airborne[1:] == airborne)
    length = num_frames + 6
    runs = np.flatnonzero(np.convolve(calm, np.ones(length), mode="valid") == length)
    assert len(runs), "the game has such a run"
    return int(runs[0]) + 3


def one_ulp(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 1, airborne=True)
    columns["y"][at] = np.nextafter(columns["y"][at], np.float32(1e9))


def tether(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 8, airborne=True)
    columns["y"][at : at + 8 : 2] += np.float32(5e-4)


def ground_speed_kept(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 6, airborne=True)
    columns["self_ground_x"][at : at + 6] = -0.5294


def changing_clock(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 6, airborne=False)
    columns["state_age"][at : at + 6] = columns["state_age"][at] + np.float32([0, 1, 3.070175, 5, 6.789474, 8.438597])


def half_speed_clock(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 6, airborne=False)
    columns["state_age"][at : at + 6] = columns["state_age"][at] + np.arange(6, dtype=np.float32) / 2


def ground_touched(timeline: PlayerTimeline, columns: Columns) -> None:
    at = middle_of(timeline, 1, airborne=True)
    columns["airborne"][at] = 0
    columns["jumps"][at] += 1


def first_drift(timeline: PlayerTimeline, columns: Columns) -> None:
    """Between its neighbours, and the displacement is that of neither."""
    at = middle_of(timeline, 3, airborne=True)
    columns["self_air_x"][at - 2 : at + 3] = np.float32([0, 0, -0.096, -0.108, -0.108])


def denormal_velocity(timeline: PlayerTimeline, columns: Columns) -> None:
    columns["self_y"][middle_of(timeline, 1, airborne=False)] = 1e-40


def single_flag(timeline: PlayerTimeline, columns: Columns) -> None:
    columns["flags_1"][middle_of(timeline, 1, airborne=True)] ^= 0x40


def combo_ends_and_begins(timeline: PlayerTimeline, columns: Columns) -> None:
    """A projectile hits in the frame after the opponent's hitstun: 1, 0, 1."""
    at = middle_of(timeline, 1, airborne=True)
    columns["combo"][at - 1 : at + 2] = [1, 0, 1]


MECHANICS = [
    one_ulp, tether, ground_speed_kept, changing_clock, half_speed_clock, ground_touched, first_drift,
    denormal_velocity, single_flag, combo_ends_and_begins,
]  # fmt: skip


@pytest.mark.parametrize("change", MECHANICS, ids=lambda change: change.__name__)
def test_what_a_game_may_do_is_not_suspect(change, synthetic):
    players = [{name: None if v is None else v.copy() for name, v in columns.items()} for columns in synthetic.players]
    change(player_timelines(synthetic)[1], players[1])
    found = suspicions(dataclasses.replace(synthetic, players=tuple(players)))
    assert found == []


def test_numbers_that_look_equal_are_shown_with_their_difference(synthetic):
    columns = dict(synthetic.players[1])
    percent = columns["percent"] = columns["percent"].copy()
    at = int(np.flatnonzero(percent > 10)[0])
    percent[at] = np.nextafter(percent[at], np.float32(999))
    (found,) = (
        suspicions(dataclasses.replace(synthetic, players=(synthetic.players[0], columns), cross_check=None)) or []
    )
    assert found.code == "percent_falls"
    assert f"from {percent[at]:g} to {percent[at]:g} (a difference of -9.54e-07)" in found.message


def test_a_difference_of_positions_is_part_of_the_message(synthetic):
    columns = dict(synthetic.players[1])
    columns["y"] = columns["y"].copy()
    columns["y"][middle_of(player_timelines(synthetic)[1], 1, airborne=True)] += np.float32(0.01)
    (found, *_) = suspicions(dataclasses.replace(synthetic, players=(synthetic.players[0], columns))) or []
    assert found.code == "pre_post_mismatch"
    assert "a difference of (0, -0.01)" in found.message
