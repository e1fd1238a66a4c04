"""Plausibility checks of the state age (the animation frame of an action), and of what hitlag freezes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck
from datasets.checks.player_timeline import PlayerTimeline, frames_where
from datasets.schema.columns import VELOCITY_COLUMNS

MAX_SPEED = 15.0
"""Maximum animation frames per game frame. Measured: 8 in shield stun, whose animation is stretched; 4 elsewhere."""
SHIELD_STUN = 181
MAX_RESTART_AGE = 4.0
"""Maximum state age at which a repeated animation restarts, at speeds below 2. Measured: 1.7."""
MAX_REVERSE = 2.0
"""Animation frames that the state age may decrease by, in case an animation plays backwards (none is known to)."""


def _state_age(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The state age advances evenly, changes speed or restarts. It does not jump, nor turn fractional for one frame."""
    age, steady = timeline["state_age"], timeline.steady
    speed = age[1:] - age[:-1]
    whole = age == np.rint(age)
    fractional = frames_where((whole[1:-1] < (whole[2:] & whole[:-2])) & steady) + 1
    for wrong in (fractional, *_jumps(timeline, speed)):
        if len(wrong):
            yield "one_frame_value", f"state_age jumps from {age[wrong[0] - 1]:g} to {age[wrong[0]]:g}", wrong


def _jumps(timeline: PlayerTimeline, speed: np.ndarray) -> Iterator[np.ndarray]:
    """Frames in which the state age decreases without a restart, returns to its course afterwards, or skips ahead."""
    age, uninterrupted = timeline["state_age"], timeline.uninterrupted
    jumps = frames_where((np.abs(speed - MAX_SPEED / 2) > MAX_SPEED / 2)[1:-1] & uninterrupted[1:-1]) + 1
    decreases = jumps[speed[jumps] < 0]
    far = (speed[decreases] < -MAX_REVERSE) & (
        age[decreases + 1] > np.maximum(MAX_RESTART_AGE, 2 * speed[decreases - 1])
    )
    yield decreases[far] + 1
    yield decreases[(age[decreases + 2] > age[decreases]) & uninterrupted[decreases + 1]] + 1
    yield decreases[(age[decreases + 1] > age[decreases - 1]) & uninterrupted[decreases - 1]]
    skips = jumps[speed[jumps] > 0]
    yield skips[timeline["action"][skips] != SHIELD_STUN] + 1


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
            text = f"{values[wrong[0]]:g} for one frame of hitlag and {values[wrong[0] - 1]:g} before and after"
            yield "one_frame_value", f"{name} is {text}", wrong


_COLUMNS = frozenset({"action", "state_age", "flags_1"})
STATE_AGE_CHECKS = (
    PlausibilityCheck(find=_state_age, columns=_COLUMNS),
    PlausibilityCheck(find=_hitlag_freeze, columns=_COLUMNS),
)
