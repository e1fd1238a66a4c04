"""Learned checks of the state age (the animation frame of an action), and of what hitlag freezes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck
from datasets.checks.player_timeline import PlayerTimeline, frames_where
from datasets.schema.columns import VELOCITY_COLUMNS

SPEED_TOLERANCE = 1e-3
"""Difference of an animation's speed between frames that is no change, in animation frames per frame. The state age is
a float32 below 1,000, so that rounding explains 6e-5."""


def _state_age(timeline: PlayerTimeline) -> Iterator[Finding]:
    """A clock that advances evenly before and after a frame, and over it, is not off in that frame alone.

    Its speed is anything: a walk's follows the stick, a throw's the weight, and an action may restart.
    """
    age, steady = timeline["state_age"], timeline.steady
    if len(age) < 5:
        return
    speed = age[1:] - age[:-1]
    bend = np.abs(speed[1:] - speed[:-1])
    frames = frames_where((bend > 3 * SPEED_TOLERANCE) & steady) + 1
    frames = frames[(frames >= 2) & (frames < len(age) - 2)]
    frames = frames[timeline.uninterrupted[frames - 2] & timeline.uninterrupted[frames + 1]]
    even = np.abs(speed[frames - 2] - speed[frames + 1]) <= SPEED_TOLERANCE
    across = np.abs(age[frames + 1] - age[frames - 1] - 2 * speed[frames - 2]) <= 2 * SPEED_TOLERANCE
    wrong = frames[even & across & (speed[frames - 2] != 0)]
    if len(wrong):
        first = wrong[0]
        text = f"{age[first]:g} for one frame, {age[first - 1]:g} before and {age[first + 1]:g} after"
        yield "one_frame_value", f"state_age is {text}", wrong


def _hitlag_freeze(timeline: PlayerTimeline) -> Iterator[Finding]:
    """State age and velocities stand still in hitlag: they do not change for a single frame."""
    frozen = frames_where(timeline.in_hitlag[1:-1] & timeline.same_action[1:] & timeline.same_action[:-1]) + 1
    frozen = frozen[timeline.in_hitlag[frozen - 1] & timeline.in_hitlag[frozen + 1]]
    before = frozen - 1
    for name in ("state_age", *VELOCITY_COLUMNS):
        values = timeline.columns[name]
        if values is None:
            continue
        moved = frozen[values[frozen] != values[before]]
        if len(moved) and len(wrong := moved[values[moved - 1] == values[moved + 1]]):
            text = f"{values[wrong[0]]!s} for one frame of hitlag and {values[wrong[0] - 1]!s} before and after"
            yield "one_frame_value", f"{name} is {text}", wrong


_COLUMNS = frozenset({"action", "state_age", "flags_1"})
STATE_AGE_CHECKS = (
    PlausibilityCheck(find=_state_age, columns=_COLUMNS),
    PlausibilityCheck(find=_hitlag_freeze, columns=_COLUMNS),
)
