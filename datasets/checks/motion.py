"""What moves must move as the game moves it: positions and velocities against each other.

Each rule compares whole columns once, and looks closer at the few frames that this leaves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.trajectory import FIRST_SPECIAL, REBIRTH, Finding, Rule, Track, frames_where
from datasets.schema.columns import VELOCITY_COLUMNS

MAX_STEP = 100.0
"""Game units in a frame. The fastest seen is 34 (Kirby's throw); launches seen move 9."""
MAX_RETURN = 25.0
"""Game units that a frame may take a player away if the next brings him back. Seen: 12 (the way to a ledge)."""
MAX_SHIFT = 10.0
"""Game units between two frames in hitlag, by the stick. Seen: 3."""
WALL_BOUNCES = (247, 248)
"""Actions FlyReflectWall and FlyReflectCeil: velocities turn round within a frame."""
TOLERANCE = 1e-4
"""Game units a frame; what is smaller is not told from rounding."""

OWN_ACTIONS = np.zeros(2**16, bool)
"""Actions that all characters share, in which nobody and nothing carries the player or throws him."""
for _first, _last in ((12, 222), (233, 238), (244, 265), (324, 324)):
    OWN_ACTIONS[_first : _last + 1] = True
FREE_ACTIONS = OWN_ACTIONS.copy()
"""The same, and the characters' special moves."""
FREE_ACTIONS[FIRST_SPECIAL:] = True


def _steps(track: Track) -> Iterator[Finding]:
    """No frame takes a player far, but death and rebirth; and none far away and back."""
    action = track["action"]
    for name in ("x", "y"):
        values = track[name]
        leaps = frames_where(np.abs(values[1:] - values[:-1]) > MAX_RETURN) + 1
        leaps = leaps[(action[leaps] > REBIRTH) & (action[leaps - 1] > REBIRTH)]
        if not len(leaps):
            continue
        sizes = np.abs(values[leaps] - values[leaps - 1])
        back = frames_where(leaps[1:] - leaps[:-1] == 1)
        back = back[np.abs(values[leaps[back + 1]] - values[leaps[back] - 1]) < sizes[back] / 2]
        for wrong in (leaps[sizes > MAX_STEP], leaps[back]):
            if len(wrong):
                yield "position_jump", f"{name} goes from {values[wrong[0] - 1]:g} to {values[wrong[0]]:g}", wrong


def _position_before(track: Track) -> Iterator[Finding]:
    """Between two frames the game moves nobody, but in hitlag, in another's hands, and after death."""
    x, y, before_x, before_y = track["x"], track["y"], track.before("x"), track.before("y")
    moved = frames_where((before_x[1:] != x[:-1]) | (before_y[1:] != y[:-1]))
    action, next_action = track["action"], track.before("action")
    frozen = track.frozen[moved]
    free = moved[FREE_ACTIONS[action[moved]] & FREE_ACTIONS[next_action[moved + 1]] & ~frozen]
    if len(free):
        # A character's own move may set him down elsewhere (a throw that ends): then x and y both change.
        once = (before_x[free + 1] == x[free]) | (before_y[free + 1] == y[free])
        free = free[OWN_ACTIONS[action[free]] | once]
    shifted = moved[frozen]
    far = np.maximum(np.abs(before_x[shifted + 1] - x[shifted]), np.abs(before_y[shifted + 1] - y[shifted])) > MAX_SHIFT
    for wrong in (free, shifted[far]):
        if len(wrong):
            first = wrong[0]
            places = f"({before_x[first + 1]:g}, {before_y[first + 1]:g}) after ({x[first]:g}, {y[first]:g})"
            yield "pre_post_mismatch", f"a frame begins at {places}", wrong + 1


def _air_velocity(track: Track) -> Iterator[Finding]:
    """In the air, a frame's step is the sum of its velocities, bit for bit but at walls, ledges and other players.

    Where the step does not fit, and with the velocity of the frames around would, the velocity is wrong: unless it
    has changed for good, as at a wall.
    """
    flies = track.airborne
    free = track.steady & flies[2:] & flies[1:-1] & flies[:-2]
    for axis, names in (("x", ("self_air_x", "attack_x")), ("y", ("self_y", "attack_y"))):
        after, before = track[axis], track.before(axis)
        own, attack = (track[name] for name in names)
        missed = (before + own) + attack != after
        frames = frames_where(free & (missed[1:-1] > (missed[2:] | missed[:-2]))) + 1
        if not len(frames):
            continue
        step = after[frames] - before[frames]
        miss = np.abs(step - (own[frames] + attack[frames]))
        action = track["action"][frames]
        clear = (miss > TOLERANCE) & ((action < WALL_BOUNCES[0]) | (action > WALL_BOUNCES[1]))
        frames, step, miss = frames[clear], step[clear], miss[clear]
        if not len(frames):
            continue
        for name, values, other in ((names[0], own, attack), (names[1], attack, own)):
            around = (values[frames - 1] + values[frames + 1]) / 2
            off = (np.abs(values[frames] - around) > 0.8 * miss) & (values[frames] != values[frames + 1])
            if not off.any():
                continue
            fits = np.abs(step - other[frames] - around) < 0.2 * miss
            wrong = frames[off & fits]
            if len(wrong):
                text = f"{values[wrong[0]]:g} between {values[wrong[0] - 1]:g} and {values[wrong[0] + 1]:g}"
                yield "velocity_mismatch", f"{name} is {text}, with which the step would fit,", wrong


def _ground_velocity(track: Track) -> Iterator[Finding]:
    """On the ground, one speed is said twice: along the surface, and as x and y. In the air the former is 0."""
    flies = track.airborne
    along, x, y = track["self_ground_x"], track["self_air_x"], track["self_y"]
    wrong = frames_where((along != 0) & flies)
    if len(wrong):
        yield "velocity_mismatch", f"self_ground_x is {along[wrong[0]]:g} in the air", wrong
    walks = ~(flies[2:] | flies[1:-1] | flies[:-2])
    sloped = (np.abs(x - along) > TOLERANCE) | (y != 0)
    frames = frames_where(sloped[1:-1] & track.steady & walks) + 1
    if not len(frames):
        return
    frames = frames[_miss(track, frames) > TOLERANCE]
    # A move that carries its character by itself misses for many frames.
    for sound in (-1, 1):
        frames = frames[_miss(track, frames + sound) < TOLERANCE / 10]
    wrong = frames[_runs(track, frames)]
    if len(wrong):
        first = wrong[0]
        text = f"{along[first]:g} along the ground, but ({x[first]:g}, {y[first]:g})"
        yield "velocity_mismatch", f"a speed is {text}", wrong


def _miss(track: Track, frames: np.ndarray) -> np.ndarray:
    """How far the two speeds of the ground lie apart."""
    x, y, along = (track[name][frames] for name in ("self_air_x", "self_y", "self_ground_x"))
    return np.abs(np.sqrt(x * x + y * y) - np.abs(along))


def _runs(track: Track, frames: np.ndarray) -> np.ndarray:
    """Whether the action's clock runs through these frames: an action may begin anew."""
    age = track["state_age"]
    return (age[frames] > age[frames - 1]) & (age[frames + 1] > age[frames])


def _knockback(track: Track) -> Iterator[Finding]:
    """Knockback begins with a hit: hitlag, or another action."""
    pushed = (track["attack_x"] != 0) | (track["attack_y"] != 0)
    wrong = frames_where((pushed[1:] > pushed[:-1]) & track.undisturbed) + 1
    if len(wrong):
        text = f"({track['attack_x'][wrong[0]]:g}, {track['attack_y'][wrong[0]]:g})"
        yield "velocity_mismatch", f"knockback {text} begins without a hit", wrong


_POSITION = frozenset({"x", "y", "action"})
_MOTION = frozenset({"action", "state_age", "flags_1", "airborne", *VELOCITY_COLUMNS})
MOTION_RULES = (
    Rule(check=_steps, needs=_POSITION, of_partners=True),
    Rule(check=_position_before, needs=_POSITION | {"flags_1"}, needs_before=_POSITION),
    Rule(check=_air_velocity, needs=_POSITION | _MOTION, needs_before=_POSITION),
    Rule(check=_ground_velocity, needs=_MOTION),
    Rule(check=_knockback, needs=_MOTION),
)
