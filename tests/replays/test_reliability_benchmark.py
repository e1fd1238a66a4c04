"""The benchmark of the checks counts what it says it counts."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import reliability
from measures.good_games import NUM_PARTITIONS, GameMeasures, cross_validate

GROUND = ("unusual_value", "ground of flat stages")
STEP = ("position_jump", "distance in a frame")


def measures(*, ground: float = 7.0, step: float = 30.0, flags: tuple[int, ...] = ()) -> GameMeasures:
    pairs = {f"flags_{number}": list(flags) for number in range(5)}
    bits = {name: int(np.bitwise_or.reduce(seen or [0])) for name, seen in pairs.items()}
    largest = {GROUND: ground, STEP: step}
    return GameMeasures(largest=largest, bits=bits, pairs=pairs, refused=frozenset(), flagged=frozenset())


def test_games_within_twice_the_largest_value_of_the_other_half_are_not_counted():
    games = [measures(ground=7.0 + number, step=30.0 - number) for number in range(6)]
    assert cross_validate(games) == (Counter(), Counter(), 6 * NUM_PARTITIONS)


@pytest.mark.parametrize(
    ("game", "refused", "flagged"),
    [
        (measures(ground=15.0), {}, {"unusual_value": NUM_PARTITIONS, "any": NUM_PARTITIONS}),
        (measures(step=61.0), {"position_jump": NUM_PARTITIONS, "any": NUM_PARTITIONS}, {}),
        (measures(flags=(0x02,)), {}, {}),
        (measures(flags=(0x06,)), {}, {"one_frame_value": NUM_PARTITIONS, "any": NUM_PARTITIONS}),
    ],
)
def test_a_game_that_the_other_half_does_not_explain_is_counted_once_per_partition(game, refused, flagged):
    assert cross_validate([*[measures()] * 5, game])[:2] == (Counter(refused), Counter(flagged))


def test_damaged_synthetic_replays_are_counted_by_what_becomes_of_them(synthetic_replays):
    games = reliability.good_games([synthetic_replays])
    outcomes = reliability.run_trials(games, "8 bytes changed", 40, seed=1)
    assert outcomes.num_trials == 40
    assert outcomes.num_caught == sum(outcomes.rejected.values()) + len(outcomes.flagged_changes) >= 38
    assert outcomes.flagged_changes and outcomes.flagged
