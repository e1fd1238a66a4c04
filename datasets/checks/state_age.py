"""An action's clock, `state_age`, and what stands still while hitlag stops it.

Each rule compares whole columns once, and looks closer at the few frames that this leaves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.trajectory import Finding, Rule, Track, frames_where
from datasets.schema.columns import VELOCITY_COLUMNS

MAX_SPEED = 15.0
"""Frames of an animation in one of the game. Seen: 8 in shield stun, whose animation fits any stun; 4 elsewhere."""
SHIELD_STUN = 181
MAX_BEGINNING = 4.0
"""Highest age at which an animation that is played again begins, at speeds below 2. Seen: 1.7."""
MAX_BACK = 2.0
"""Frames that a clock may go back anywhere: an animation might be played backwards, though none is known to be."""


def _state_age(track: Track) -> Iterator[Finding]:
    """A clock runs evenly, changes its speed, or begins anew: it does not leap, nor leave whole numbers for a frame."""
    age, steady = track["state_age"], track.steady
    speed = age[1:] - age[:-1]
    whole = age == np.rint(age)
    between = frames_where((whole[1:-1] < (whole[2:] & whole[:-2])) & steady) + 1
    for wrong in (between, *_leaps(track, speed)):
        if len(wrong):
            yield "one_frame_value", f"state_age is {age[wrong[0]]:g} after {age[wrong[0] - 1]:g}", wrong


def _leaps(track: Track, speed: np.ndarray) -> Iterator[np.ndarray]:
    """Frames in which a clock goes back but not to its beginning, or goes on from where it was; or runs ahead."""
    age, calm = track["state_age"], track.undisturbed
    leaps = frames_where((np.abs(speed - MAX_SPEED / 2) > MAX_SPEED / 2)[1:-1] & calm[1:-1]) + 1
    falls = leaps[speed[leaps] < 0]
    far = (speed[falls] < -MAX_BACK) & (age[falls + 1] > np.maximum(MAX_BEGINNING, 2 * speed[falls - 1]))
    yield falls[far] + 1
    yield falls[(age[falls + 2] > age[falls]) & calm[falls + 1]] + 1
    yield falls[(age[falls + 1] > age[falls - 1]) & calm[falls - 1]]
    ahead = leaps[speed[leaps] > 0]
    yield ahead[track["action"][ahead] != SHIELD_STUN] + 1


def _frozen(track: Track) -> Iterator[Finding]:
    """In hitlag nothing leaves and comes back: what moves or counts stands still."""
    frozen = frames_where(track.frozen[1:-1] & track.stays[1:] & track.stays[:-1]) + 1
    frozen = frozen[track.frozen[frozen - 1] & track.frozen[frozen + 1]]
    before = frozen - 1
    for name in ("state_age", *VELOCITY_COLUMNS):
        values = track.columns[name]
        if values is None:
            continue
        moved = frozen[values[frozen] != values[before]]
        if len(moved) and len(wrong := moved[values[moved - 1] == values[moved + 1]]):
            text = f"{values[wrong[0]]:g} between frames of {values[wrong[0] - 1]:g}"
            yield "one_frame_value", f"{name} is {text} in hitlag", wrong


_CLOCK = frozenset({"action", "state_age", "flags_1"})
CLOCK_RULES = (
    Rule(check=_state_age, needs=_CLOCK),
    Rule(check=_frozen, needs=_CLOCK),
)
