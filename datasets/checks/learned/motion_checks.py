"""Learned checks of positions and velocities against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck
from datasets.checks.player_timeline import FIRST_SPECIAL, REBIRTH, PlayerTimeline, frames_where, is_isolated
from datasets.schema.columns import VELOCITY_COLUMNS

MAX_RETURN = 25.0
"""Maximum distance of a frame that the next frame reverts, in game units: twice the measured 12 (onto a ledge)."""
MAX_SHIFT = 10.0
"""Maximum shift per frame of hitlag by the stick (SDI), in game units. Measured: 3; SDI moves by 6 at most."""
ROUNDING = 1e-3
"""Difference of positions that is none, in game units. At a ledge or on a tether the game computes a position twice,
with another rounding; float32 positions have steps of 8e-6 to 2e-5 there."""
WALL_BOUNCES = (247, 248)
"""Action states FlyReflectWall and FlyReflectCeil, in which velocities reverse within a frame."""
SMALLEST_SPIKE = 0.06
"""Velocity that counts as changed for a frame, in game units per frame: more than knockback loses in one, 0.051, so
that the last frame of a knockback is no spike."""

COMMON_ACTIONS = np.zeros(2**16, bool)
"""By action state: shared by all characters, and neither carried nor thrown by anyone or anything."""
for _first, _last in ((12, 222), (233, 238), (244, 265), (324, 324)):
    COMMON_ACTIONS[_first : _last + 1] = True
FREE_ACTIONS = COMMON_ACTIONS.copy()
"""By action state: COMMON_ACTIONS and the characters' special moves."""
FREE_ACTIONS[FIRST_SPECIAL:] = True


def _reverts(timeline: PlayerTimeline) -> Iterator[Finding]:
    """A large change of position does not revert in the next frame, except by death and respawn."""
    action = timeline["action"]
    for name in ("x", "y"):
        values = timeline[name]
        jumps = frames_where(np.abs(values[1:] - values[:-1]) > MAX_RETURN) + 1
        jumps = jumps[(action[jumps] > REBIRTH) & (action[jumps - 1] > REBIRTH)]
        back = jumps[:-1][np.diff(jumps) == 1]
        sizes = np.abs(values[back] - values[back - 1])
        wrong = back[np.abs(values[back + 1] - values[back - 1]) < sizes / 2]
        if len(wrong):
            text = f"{name} jumps from {values[wrong[0] - 1]:g} to {values[wrong[0]]:g} and back"
            yield "position_reverts", text, wrong


def _position_before(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The position before a frame is that after the previous one, except in hitlag, while held, and after a death.

    Something that moves a player between frames, such as a tether, does so in several: only single frames count.
    """
    x, y, before_x, before_y = timeline["x"], timeline["y"], timeline.pre_frame("x"), timeline.pre_frame("y")
    moved = frames_where((before_x[1:] != x[:-1]) | (before_y[1:] != y[:-1]))
    alone = is_isolated(moved)
    action, next_action = timeline["action"], timeline.pre_frame("action")
    frozen = timeline.in_hitlag[moved]
    free = alone & FREE_ACTIONS[action[moved]] & FREE_ACTIONS[next_action[moved + 1]] & ~frozen
    candidates = free | frozen
    moved, free, frozen = moved[candidates], free[candidates], frozen[candidates]
    far_x, far_y = np.abs(before_x[moved + 1] - x[moved]), np.abs(before_y[moved + 1] - y[moved])
    # The end of a character's move can relocate it (after a throw): then both x and y change.
    one_axis = (far_x <= ROUNDING) | (far_y <= ROUNDING)
    free &= COMMON_ACTIONS[action[moved]] | one_axis
    off = ~((far_x <= ROUNDING) & (far_y <= ROUNDING))
    shifted = frozen & ~((far_x <= MAX_SHIFT) & (far_y <= MAX_SHIFT))
    wrong = moved[(free & off) | shifted]
    if len(wrong):
        first = wrong[0]
        text = f"pre-frame position ({before_x[first + 1]!s}, {before_y[first + 1]!s})"
        text += f" after post-frame position ({x[first]!s}, {y[first]!s}), a difference of"
        text += f" ({before_x[first + 1] - x[first]:.3g}, {before_y[first + 1] - y[first]:.3g})"
        yield "pre_post_mismatch", text, wrong + 1


def _air_velocity(timeline: PlayerTimeline) -> Iterator[Finding]:
    """In the air the displacement is exactly the sum of the velocities, except at walls, ledges and other players.

    A velocity is implausible if it leaves the range of its neighbours for one frame, and the displacement does not
    match it but the mean of its neighbours. One between its neighbours may be the first frame of a drift; one that
    keeps its new value may be a wall.
    """
    airborne = timeline.airborne
    free = timeline.steady & airborne[2:] & airborne[1:-1] & airborne[:-2]
    for axis, names in (("x", ("self_air_x", "attack_x")), ("y", ("self_y", "attack_y"))):
        after, before = timeline[axis], timeline.pre_frame(axis)
        own, attack = (timeline[name] for name in names)
        mismatch = (before + own) + attack != after
        alone = frames_where(free & (mismatch[1:-1] > (mismatch[2:] | mismatch[:-2]))) + 1
        for name, values, other in ((names[0], own, attack), (names[1], attack, own)):
            frames = alone[_spikes(values, alone)]
            action = timeline["action"][frames]
            frames = frames[(action < WALL_BOUNCES[0]) | (action > WALL_BOUNCES[1])]
            displacement = after[frames] - before[frames]
            mean = (values[frames - 1] + values[frames + 1]) / 2
            error = np.abs(displacement - (own[frames] + attack[frames]))
            fits = np.abs(displacement - other[frames] - mean) < 0.2 * error
            off = np.abs(values[frames] - mean) > 0.8 * error
            wrong = frames[(error > SMALLEST_SPIKE) & fits & off]
            if len(wrong):
                text = f"{values[wrong[0]]:g} between {values[wrong[0] - 1]:g} and {values[wrong[0] + 1]:g}"
                yield "velocity_mismatch", f"{name} is {text} and does not match the displacement", wrong


def _spikes(values: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Mask of the frames that leave the range of their neighbours by SMALLEST_SPIKE."""
    previous, current, following = values[frames - 1], values[frames], values[frames + 1]
    rise = np.minimum(current - previous, current - following)
    fall = np.minimum(previous - current, following - current)
    return np.maximum(rise, fall) > SMALLEST_SPIKE


def _ground_velocity(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The ground speed equals the length of the velocity on the ground, and is not set for one frame of a flight.

    A player who is hit off the ground may keep an old ground speed in the air; an action that moves its character
    directly mismatches for many frames.
    """
    airborne = timeline.airborne
    along, x, y = timeline["self_ground_x"], timeline["self_air_x"], timeline["self_y"]
    flying = airborne[2:] & airborne[1:-1] & airborne[:-2]
    wrong = frames_where((along[1:-1] != 0) & (along[2:] == 0) & (along[:-2] == 0) & flying & timeline.steady) + 1
    if len(wrong):
        yield "velocity_mismatch", f"self_ground_x is {along[wrong[0]]:g} for one frame in the air, expected 0", wrong
    grounded = ~(airborne[2:] | airborne[1:-1] | airborne[:-2])
    sloped = (np.abs(x - along) > SMALLEST_SPIKE / 2) | (np.abs(y) > SMALLEST_SPIKE / 2)
    frames = frames_where(sloped[1:-1] & timeline.steady & grounded) + 1
    frames = frames[_spikes(along, frames) | _spikes(x, frames) | _spikes(y, frames)]
    if not len(frames):
        return
    frames = frames[_ground_speed_error(timeline, frames) > SMALLEST_SPIKE]
    for neighbour in (-1, 1):
        frames = frames[_ground_speed_error(timeline, frames + neighbour) < SMALLEST_SPIKE / 10]
    wrong = frames[_state_age_advances(timeline, frames)]
    if len(wrong):
        first = wrong[0]
        text = f"ground speed {along[first]:g}, but velocity ({x[first]:g}, {y[first]:g})"
        yield "velocity_mismatch", text, wrong


def _ground_speed_error(timeline: PlayerTimeline, frames: np.ndarray) -> np.ndarray:
    """Difference between the length of the velocity and the ground speed."""
    x, y, along = (timeline[name][frames] for name in ("self_air_x", "self_y", "self_ground_x"))
    return np.abs(np.sqrt(x * x + y * y) - np.abs(along))


def _state_age_advances(timeline: PlayerTimeline, frames: np.ndarray) -> np.ndarray:
    """Whether the state age increases into and out of each frame: the action does not restart."""
    age = timeline["state_age"]
    return (age[frames] > age[frames - 1]) & (age[frames + 1] > age[frames])


def _knockback(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Knockback begins with a hit and decays: without hitlag and another action it does not last a single frame."""
    x, y = timeline["attack_x"], timeline["attack_y"]
    has_knockback = (x != 0) | (y != 0)
    single = has_knockback[1:-1] > (has_knockback[2:] | has_knockback[:-2])
    wrong = frames_where(single & timeline.steady) + 1
    wrong = wrong[np.maximum(np.abs(x[wrong]), np.abs(y[wrong])) > SMALLEST_SPIKE]
    if len(wrong):
        text = f"({x[wrong[0]]:g}, {y[wrong[0]]:g})"
        yield "velocity_mismatch", f"knockback is {text} for one frame without a hit", wrong


_POSITION_COLUMNS = frozenset({"x", "y", "action"})
_MOTION_COLUMNS = frozenset({"action", "state_age", "flags_1", "airborne", *VELOCITY_COLUMNS})
MOTION_CHECKS = (
    PlausibilityCheck(find=_reverts, columns=_POSITION_COLUMNS, applies_to_followers=True),
    PlausibilityCheck(
        find=_position_before, columns=_POSITION_COLUMNS | {"flags_1"}, pre_frame_columns=_POSITION_COLUMNS
    ),
    PlausibilityCheck(
        find=_air_velocity, columns=_POSITION_COLUMNS | _MOTION_COLUMNS, pre_frame_columns=_POSITION_COLUMNS
    ),
    PlausibilityCheck(find=_ground_velocity, columns=_MOTION_COLUMNS),
    PlausibilityCheck(find=_knockback, columns=_MOTION_COLUMNS),
)
