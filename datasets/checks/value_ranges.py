"""The range of each column. Damaged files often parse without an error, and then hold impossible values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Violation
from datasets.replays.game import Columns, Game

VALUE_RANGES: dict[str, tuple[float, float]] = {
    "character": (0, 32), "action": (0, 1023), "x": (-2e3, 2e3), "y": (-2e3, 2e3), "facing": (-1, 1),
    "percent": (0, 999), "shield": (-100, 60), "last_hit_by": (0, 6), "stocks": (0, 99), "state_age": (-100, 1e4),
    "airborne": (0, 1), "jumps": (0, 6), "l_cancel": (0, 2), "hurtbox": (0, 2),
    "hitstun": (-100, 1e3), "hitlag": (0, 100),
    "self_air_x": (-100, 100), "self_y": (-100, 100), "attack_x": (-100, 100), "attack_y": (-100, 100),
    "self_ground_x": (-100, 100), "main_x": (-80, 80), "main_y": (-80, 80), "c_x": (-80, 80), "c_y": (-80, 80),
    "trigger": (0, 140),
}  # fmt: skip
"""Column -> lowest and highest value that the game can produce, with a margin."""

NO_FRAMES = np.empty(0, np.int64)


def values_out_of_range(game: Game) -> Iterator[Violation]:
    """The first column with a value out of its range."""
    every_columns: list[Columns] = [*game.players, *(follower.columns for follower in game.followers)]
    for columns in every_columns:
        for name, (lowest, highest) in VALUE_RANGES.items():
            values = columns[name]
            if values is None:
                continue
            greatest = np.maximum.reduce(values)
            least = 0 if values.dtype.kind == "u" else np.minimum.reduce(values)
            if not (lowest <= least and greatest <= highest):
                message = f"{name} ranges from {values.min()} to {greatest}, expected {lowest} to {highest}"
                yield Violation(code="bad_values", message=message, frames=NO_FRAMES)
                return
