"""How many good games the checks refuse or flag, on games that the thresholds do not come from.

Cross-validation: the thresholds of the rules that have one are taken from a random half of the games, MARGIN times the
largest value in them, and games beyond them are counted on the other half; in turn, and for several partitions. Rules
without a threshold are counted as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.checks.filters import FilterConfig, check_game
from datasets.checks.learned.motion_checks import COMMON_ACTIONS
from datasets.checks.learned.value_checks import FLAT_STAGES, NO_GROUND, PERSISTENT_BITS
from datasets.checks.player_timeline import REBIRTH, PlayerTimeline, player_timelines
from datasets.replays.game import Game
from datasets.runtime.errors import ReplayError

MARGIN = 2.0
"""A threshold is at least this multiple of the largest value that was measured."""
REFUSING = {"position_jump", "bad_values"}
NUM_PARTITIONS = 10
ANYTHING = FilterConfig(
    min_frames=1, min_damage_percent=0.0, num_stocks=0, any_stage=True, allow_idle=True, allow_cpu=True,
    allow_items=True, allow_teams=True,
)  # fmt: skip
"""Filters that leave only the plausibility checks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GameMeasures:
    """What one good game says about the thresholds, and the codes that it is refused or flagged for as they are."""

    largest: dict[tuple[str, str], float]
    """(code, threshold) -> the largest value in the game."""
    bits: dict[str, int]
    """Flag byte -> bits that change for a single frame during an action."""
    pairs: dict[str, list[int]]
    """Flag byte -> bits that change together for such a frame."""
    refused: frozenset[str]
    flagged: frozenset[str]


def outcome(game: Game) -> tuple[frozenset[str], frozenset[str]]:
    """Codes that a game is refused for and rules that it is flagged for, if no filter of training games applies."""
    try:
        return frozenset(), frozenset(found.code for found in check_game(game, ANYTHING) or ())
    except ReplayError as error:
        return frozenset({error.code}), frozenset()


def measure(game: Game) -> GameMeasures:
    """Measure one game."""
    largest: dict[tuple[str, str], float] = {}
    bits: dict[str, int] = dict.fromkeys(PERSISTENT_BITS, 0)
    pairs: dict[str, list[int]] = {name: [] for name in PERSISTENT_BITS}
    for timeline in player_timelines(game):
        for name, values in _extremes(timeline):
            largest[name] = max(largest.get(name, 0.0), float(values.max(initial=0.0)))
        for name in PERSISTENT_BITS:
            for together in _single_frame_bits(timeline, name):
                bits[name] |= together
                pairs[name].append(together)
    refused, flagged = outcome(game)
    return GameMeasures(largest=largest, bits=bits, pairs=pairs, refused=refused, flagged=flagged)


def _extremes(timeline: PlayerTimeline) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    action, ground = timeline["action"], timeline["ground"]
    alive = action > REBIRTH
    kind = "flat" if timeline.stage in FLAT_STAGES else "other"
    yield ("unusual_value", f"ground of {kind} stages"), ground[ground != NO_GROUND]
    for axis in ("x", "y"):
        values = timeline[axis]
        yield ("bad_values", "position"), np.abs(values)
        steps = np.where(alive[1:] & alive[:-1], np.abs(np.diff(values)), 0)
        yield ("position_jump", "distance in a frame"), steps
        back = np.abs(values[2:] - values[:-2]) < steps[:-1] / 2
        yield ("position_reverts", "distance and back"), np.where(back, np.minimum(steps[:-1], steps[1:]), 0)
        shift = np.abs(timeline.pre_frame(axis)[1:] - values[:-1])
        moved = timeline.in_hitlag[:-1] & COMMON_ACTIONS[action[:-1]]
        yield ("pre_post_mismatch", "shift in hitlag"), np.where(moved, shift, 0)
    for name in ("self_air_x", "self_y", "attack_x", "attack_y", "self_ground_x"):
        if (values := timeline.columns[name]) is not None:
            yield ("bad_values", "velocity"), np.abs(values)
    yield ("bad_values", "state age"), timeline["state_age"]


def _single_frame_bits(timeline: PlayerTimeline, name: str) -> list[int]:
    values, age = timeline.columns[name], timeline["state_age"]
    if values is None:
        return []
    changes = values[1:] ^ values[:-1]
    running = (age[1:] >= age[:-1]) & timeline.same_action
    twice = np.where(running[1:] & running[:-1], changes[1:] & changes[:-1], 0)
    return twice[twice != 0].tolist()


def cross_validate(games: list[GameMeasures], seed: int = 0) -> tuple[Counter, Counter, int]:
    """Codes of the refused and of the flagged games of the halves that were held out, and their number.

    The counters have `any`, too: the games with at least one code.
    """
    refused, flagged, num_games = Counter(), Counter(), 0
    for partition in range(NUM_PARTITIONS):
        order = np.random.default_rng([seed, partition]).permutation(len(games))
        halves = np.array_split(order, 2)
        for learned_from, held_out in (halves, halves[::-1]):
            learned = [games[at] for at in learned_from]
            names = {name for game in learned for name in game.largest}
            limits = {name: MARGIN * max(game.largest.get(name, 0.0) for game in learned) for name in names}
            stable = {
                name: 0xFF & ~int(np.bitwise_or.reduce([g.bits[name] for g in learned])) for name in PERSISTENT_BITS
            }
            for game in (games[at] for at in held_out):
                codes = {
                    code for (code, name), value in game.largest.items() if value > limits.get((code, name), np.inf)
                }
                if any((bits & stable[name]).bit_count() >= 2 for name, seen in game.pairs.items() for bits in seen):
                    codes.add("one_frame_value")
                found = {*game.refused, *(codes & REFUSING)}, {*game.flagged, *(codes - REFUSING)}
                for counter, of_game in zip((refused, flagged), found, strict=True):
                    counter.update(of_game | ({"any"} if of_game else set()))
            num_games += len(held_out)
    return refused, flagged, num_games
