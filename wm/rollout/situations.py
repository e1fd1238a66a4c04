"""How alike two moments of games are: the distance by which `wm.rollout.retrieval` finds the nearest real situation.

A sum over both players, of squared differences of numbers in their own units, and of penalties. Positions count beside
each other as well as relative to the opponent; the controllers are those before the moment and those after it, which
every predictor is given. NumPy only.

Shape legend: M = moments, Q = questions, P = players (2), C = columns, O = offsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays
from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import BUTTON_BITS, STICK_GRID, TRIGGER_GRID

FRAMES_BEFORE = 4
"""Frames before a moment that its displacement and its controllers come from."""
FUTURE_OFFSETS = (1, 2, 3, 4, 6, 8, 11, 15, 20)
CONTROLLER_OFFSETS = (-FRAMES_BEFORE, -2, 0, *FUTURE_OFFSETS)
"""Frames from a moment whose controllers are compared."""
UNITS: dict[str, float] = {"x": 10.0, "y": 10.0, "percent": 40.0, "shield": 20.0, "hitlag": 3.0}
"""Differences that count as much as one another."""
RELATIVE_UNIT, DISPLACEMENT_UNIT, STICK_UNIT, BUTTON_UNIT, JUMPS_UNIT = 10.0, 1.0, 1.0, 1.5, 1.0
FACING_PENALTY, AIRBORNE_PENALTY, ACTION_PENALTY, CHARACTER_PENALTY, STAGE_PENALTY = 2.0, 4.0, 4.0, 4.0, 8.0
"""Added where a category differs, for each player but the stage's; in units of squared differences."""
AGE_UNIT = 4.0
"""Frames; ages of one action cost at most ACTION_PENALTY."""
_STICKS = tuple(CODE_COLUMNS.index(name) for name in ("main_x", "main_y", "c_x", "c_y"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Situations:
    """What is compared of some moments."""

    numbers: np.ndarray
    """float32 (M, C), in units: distances are squared differences."""
    actions: np.ndarray
    """int16 (M, P)."""
    ages: np.ndarray
    """float32 (M, P), in units."""
    characters: np.ndarray
    """int16 (M, P)."""
    stages: np.ndarray
    """int16 (M,)."""

    def __len__(self) -> int:
        return len(self.stages)

    def part(self, first: int, end: int) -> Situations:
        """Moments first .. end-1."""
        return Situations(
            numbers=self.numbers[first:end],
            actions=self.actions[first:end],
            ages=self.ages[first:end],
            characters=self.characters[first:end],
            stages=self.stages[first:end],
        )


def situations(frames: FrameArrays, moments: np.ndarray, stages: np.ndarray) -> Situations:
    """
    Args:
        frames: N frames.
        moments: int64 (M,), row of each moment; FRAMES_BEFORE frames before it and `max(FUTURE_OFFSETS)` after it must
            be of its game.
        stages: int16 (M,), stage of its game.
    """
    floats, codes = frames.floats[moments], frames.codes[moments]
    places, earlier = floats[..., :2], frames.floats[moments - FRAMES_BEFORE][..., :2]
    steps = [places - frames.floats[moments - 1][..., :2], (places - earlier) / FRAMES_BEFORE]
    columns = [
        *(floats[..., FLOAT_COLUMNS.index(name)] / unit for name, unit in UNITS.items()),
        (places[:, :1] - places[:, 1:]).reshape(len(moments), NUM_PLAYERS) / RELATIVE_UNIT,
        *(step.reshape(len(moments), -1) / DISPLACEMENT_UNIT for step in steps),
        codes[..., CODE_COLUMNS.index("jumps")] / JUMPS_UNIT,
        (codes[..., CODE_COLUMNS.index("facing")] > 0) * np.sqrt(FACING_PENALTY),
        (codes[..., CODE_COLUMNS.index("airborne")] != 0) * np.sqrt(AIRBORNE_PENALTY),
        _controllers(frames, moments),
    ]
    return Situations(
        numbers=np.concatenate([column.astype(np.float32) for column in columns], axis=1),
        actions=codes[..., CODE_COLUMNS.index("action")],
        ages=floats[..., FLOAT_COLUMNS.index("state_age")] / np.float32(AGE_UNIT),
        characters=codes[..., CODE_COLUMNS.index("character")],
        stages=stages,
    )


def _controllers(frames: FrameArrays, moments: np.ndarray) -> np.ndarray:
    """Sticks, trigger and buttons around each moment, as means over CONTROLLER_OFFSETS: float32 (M, C)."""
    bits = np.array(list(BUTTON_BITS.values()), np.int16)
    codes = frames.codes[moments[:, None] + np.array(CONTROLLER_OFFSETS)]
    sticks = codes[..., _STICKS] / np.float32(STICK_GRID * STICK_UNIT)
    trigger = codes[..., CODE_COLUMNS.index("trigger"), None] / np.float32(TRIGGER_GRID * STICK_UNIT)
    buttons = ((codes[..., CODE_COLUMNS.index("buttons"), None] & bits) != 0) / np.float32(BUTTON_UNIT)
    parts = np.concatenate([sticks, trigger, buttons], axis=-1).reshape(len(moments), -1)
    return parts / np.float32(np.sqrt(len(CONTROLLER_OFFSETS)))


def distances(questions: Situations, moments: Situations) -> np.ndarray:
    """Distance of each question from each moment: float32 (Q, M)."""
    found = (questions.numbers**2).sum(1)[:, None] + (moments.numbers**2).sum(1)
    found -= 2 * (questions.numbers @ moments.numbers.T)
    for player in range(NUM_PLAYERS):
        same = questions.actions[:, player, None] == moments.actions[:, player]
        ages = (questions.ages[:, player, None] - moments.ages[:, player]) ** 2
        found += np.where(same, np.minimum(ages, ACTION_PENALTY), np.float32(ACTION_PENALTY))
        other = questions.characters[:, player, None] != moments.characters[:, player]
        found += other * np.float32(CHARACTER_PENALTY)
    found += (questions.stages[:, None] != moments.stages) * np.float32(STAGE_PENALTY)
    return found


def players_swapped(frames: FrameArrays) -> FrameArrays:
    """The same frames with the players exchanged."""
    return FrameArrays(floats=frames.floats[:, ::-1], codes=frames.codes[:, ::-1])
