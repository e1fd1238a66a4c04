"""The range of each column. Damaged files often parse without an error, and then hold impossible values."""

from __future__ import annotations

import numpy as np

from datasets.replays.game import Columns, Game

VALUE_RANGES: dict[str, tuple[float, float]] = {
    "character": (0, 32), "action": (0, 1023), "x": (-2e3, 2e3), "y": (-2e3, 2e3), "facing": (-1, 1),
    "percent": (0, 999), "shield": (-1, 60), "last_hit_by": (0, 6), "stocks": (0, 99), "state_age": (-100, 1e4),
    "airborne": (0, 1), "jumps": (0, 6), "l_cancel": (0, 2), "hurtbox": (0, 2),
    "hitstun": (-100, 1e3), "hitlag": (0, 100),
    "self_air_x": (-100, 100), "self_y": (-100, 100), "attack_x": (-100, 100), "attack_y": (-100, 100),
    "self_ground_x": (-100, 100), "main_x": (-80, 80), "main_y": (-80, 80), "c_x": (-80, 80), "c_y": (-80, 80),
    "trigger": (0, 140),
}  # fmt: skip
"""Column -> lowest and highest value that the game can produce, with a margin."""

NEVER_TINY = frozenset({"state_age", "self_air_x", "self_y", "attack_x", "attack_y", "self_ground_x"})
"""Columns that are often 0, and otherwise at least TINY."""
TINY = 1e-20
"""The smallest magnitude in the measured games is 4e-14. A damaged 0 is mostly smaller."""
TINY_BITS = int(np.float32(TINY).view(np.uint32))


def value_out_of_range(game: Game) -> str | None:
    """A message about the first column with a value out of its range; None if there is none."""
    every_columns: list[Columns] = [*game.players, *(follower.columns for follower in game.followers)]
    for columns in every_columns:
        for name, (lowest, highest) in VALUE_RANGES.items():
            values = columns[name]
            if values is None:
                continue
            greatest = np.maximum.reduce(values)
            least = 0 if values.dtype.kind == "u" else np.minimum.reduce(values)
            if not (lowest <= least and greatest <= highest):
                return f"{name} ranges from {values.min()} to {greatest}, expected {lowest} to {highest}"
            if name in NEVER_TINY and _smallest_bits(values) < TINY_BITS:
                return f"{name} has a value closer to 0 than {TINY}, expected 0 itself or a larger magnitude"
    return None


def _smallest_bits(values: np.ndarray) -> int:
    """Bits of the smallest nonzero magnitude. The bits of non-negative floats are ordered like their values."""
    bits = values.view(np.uint32) << np.uint32(1)  # drops the sign
    bits -= np.uint32(2)  # 0 wraps around to the largest value
    return int(np.minimum.reduce(bits)) // 2 + 1
