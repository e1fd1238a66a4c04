"""Random players with just enough purpose for a fight.

A player holds one command (stick, C-stick, trigger, buttons) for some frames, and then draws the next one from a table
that depends on its situation. The rules see only the resulting `Controllers`. Shape legend: see state.py; n = the
players that draw a command in this frame.
"""

from dataclasses import dataclass, field

import numpy as np

from datasets.runtime.splitmix64 import bit_field, random_words
from datasets.synth import actions
from datasets.synth.actions import Action, Trait
from datasets.synth.controllers import DEAD_ZONE, STICK_STEPS, Button
from datasets.synth.state import World

# Horizontal direction of a stick: neutral, towards the opponent, away from it, to the middle of the stage.
_NEUTRAL, _AT, _AWAY, _MIDDLE = 0, 1, 2, 3
# Each row: stick x (direction, low, high), stick y (low, high), C-stick (direction, x, y), buttons, trigger,
# duration of the stick (low, high), duration of the buttons (low, high). Sticks in 1/80, trigger in 1/140, frames.
_B = Button
COMMANDS: dict[str, tuple[tuple[int, int, int], tuple[int, int], tuple[int, int, int], int, int, tuple, tuple]] = {
    "stand": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), 0, 0, (3, 12), (1, 1)),
    "wait": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), 0, 0, (1, 4), (1, 1)),
    "lean": ((_AT, 24, 60), (0, 0), (0, 0, 0), 0, 0, (2, 6), (1, 1)),
    "walk": ((_AT, 30, 62), (0, 0), (0, 0, 0), 0, 0, (6, 22), (1, 1)),
    "dash": ((_AT, 76, 80), (-6, 6), (0, 0, 0), 0, 0, (8, 26), (1, 1)),
    "dash back": ((_AWAY, 76, 80), (-6, 6), (0, 0, 0), 0, 0, (5, 12), (1, 1)),
    "jump in": ((_AT, 60, 80), (0, 20), (0, 0, 0), _B.X, 0, (9, 18), (7, 9)),
    "hop in": ((_AT, 60, 80), (0, 20), (0, 0, 0), _B.Y, 0, (8, 13), (2, 2)),
    "jump": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.X, 0, (8, 16), (2, 9)),
    "tap jump": ((_AT, 24, 50), (62, 70), (0, 0, 0), 0, 0, (7, 12), (1, 1)),
    "jab": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.A, 0, (7, 18), (2, 4)),
    "side tilt": ((_AT, 40, 55), (0, 10), (0, 0, 0), _B.A, 0, (8, 18), (2, 4)),
    "up tilt": ((_NEUTRAL, 0, 0), (36, 48), (0, 0, 0), _B.A, 0, (8, 18), (2, 4)),
    "down tilt": ((_NEUTRAL, 0, 0), (-50, -36), (0, 0, 0), _B.A, 0, (8, 18), (2, 4)),
    "side smash": ((_NEUTRAL, 0, 0), (0, 0), (_AT, 80, 0), 0, 0, (10, 24), (3, 6)),
    "up smash": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 80), 0, 0, (10, 24), (3, 6)),
    "down smash": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, -80), 0, 0, (10, 24), (3, 6)),
    "dash attack": ((_AT, 77, 80), (0, 0), (0, 0, 0), _B.A, 0, (8, 16), (2, 4)),
    "grab": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.Z, 0, (8, 16), (2, 4)),
    "neutral air": ((_AT, 40, 80), (0, 12), (0, 0, 0), _B.A, 0, (6, 12), (2, 4)),
    "plain air": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.A, 0, (6, 12), (2, 4)),
    "side air": ((_AT, 40, 80), (0, 0), (_AT, 80, 0), 0, 0, (6, 14), (3, 6)),
    "up air": ((_AT, 24, 70), (0, 0), (0, 0, 80), 0, 0, (6, 14), (3, 6)),
    "down air": ((_AT, 24, 60), (0, 0), (0, 0, -80), 0, 0, (6, 14), (3, 6)),
    "shield": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.L, 140, (8, 28), (8, 28)),
    "light shield": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), 0, 70, (8, 24), (8, 24)),
    "roll": ((_AWAY, 77, 80), (0, 0), (0, 0, 0), _B.R, 140, (5, 9), (5, 9)),
    "spot dodge": ((_NEUTRAL, 0, 0), (-80, -70), (0, 0, 0), _B.R, 140, (5, 9), (5, 9)),
    "crouch": ((_NEUTRAL, 0, 0), (-80, -64), (0, 0, 0), 0, 0, (4, 14), (1, 1)),
    "fast fall": ((_AT, 24, 80), (-80, -60), (0, 0, 0), 0, 0, (3, 7), (1, 1)),
    "air dodge": ((_AT, 60, 78), (-40, -20), (0, 0, 0), _B.R, 140, (5, 10), (3, 5)),
    "land cancel": ((_AT, 0, 60), (0, 0), (0, 0, 0), _B.L, 140, (5, 8), (2, 4)),
    "drift in": ((_AT, 40, 80), (0, 0), (0, 0, 0), 0, 0, (4, 12), (1, 1)),
    "drift out": ((_AWAY, 40, 80), (0, 0), (0, 0, 0), 0, 0, (4, 10), (1, 1)),
    "recover drift": ((_MIDDLE, 70, 80), (0, 10), (0, 0, 0), 0, 0, (4, 10), (1, 1)),
    "recover jump": ((_MIDDLE, 70, 80), (0, 20), (0, 0, 0), _B.X, 0, (7, 14), (2, 5)),
    "recover up": ((_MIDDLE, 36, 44), (62, 68), (0, 0, 0), _B.B, 0, (20, 30), (2, 4)),
    "survive": ((_MIDDLE, 50, 80), (30, 60), (0, 0, 0), 0, 0, (4, 12), (1, 1)),
    "get up": ((_MIDDLE, 40, 60), (54, 68), (0, 0, 0), 0, 0, (4, 8), (1, 1)),
    "taunt": ((_NEUTRAL, 0, 0), (0, 0), (0, 0, 0), _B.D_UP, 0, (3, 8), (2, 4)),
}  # fmt: skip

SITUATIONS: dict[str, dict[str, int]] = {
    "ground far": {"stand": 2, "walk": 5, "dash": 13, "dash back": 2, "jump in": 4, "hop in": 3, "tap jump": 1,
                   "crouch": 1, "dash attack": 1},
    "ground near": {"dash": 2, "dash back": 2, "jump in": 1, "hop in": 4, "jab": 3, "jump": 1, "side tilt": 7,
                    "up tilt": 3, "down tilt": 4, "side smash": 6, "up smash": 4, "down smash": 3, "grab": 1,
                    "shield": 3, "light shield": 1, "roll": 1, "spot dodge": 1, "crouch": 1},
    "ground, opponent above": {"jump in": 6, "hop in": 1, "tap jump": 2, "walk": 2, "dash": 2, "up smash": 1,
                               "stand": 1},
    "ground, opponent below": {"crouch": 5, "dash": 3, "hop in": 2, "walk": 2, "stand": 1},
    "busy": {"wait": 6, "lean": 3},
    "air far": {"drift in": 40, "drift out": 4, "jump in": 6, "fast fall": 14, "air dodge": 1, "neutral air": 3},
    "air near": {"drift in": 2, "jump in": 1, "fast fall": 1, "neutral air": 3, "plain air": 3, "side air": 8,
                 "up air": 4, "down air": 3},
    "air attacking": {"fast fall": 3, "drift in": 6, "drift out": 1},
    "air attacking, landing": {"land cancel": 5, "drift in": 3, "fast fall": 1},
    "off stage": {"recover drift": 5, "recover jump": 3, "recover up": 1},
    "off stage, jumps used": {"recover drift": 5, "recover up": 4},
    "hurt": {"survive": 6, "drift out": 1, "stand": 3, "shield": 1, "drift in": 2},
    "waiting": {"stand": 3, "get up": 5, "jump": 1, "taunt": 1},
    "shielding": {"shield": 3, "stand": 3, "roll": 1, "jump": 1, "spot dodge": 1, "hop in": 1},
}  # fmt: skip
_SITUATION = {name: row for row, name in enumerate(SITUATIONS)}


def _cumulative() -> np.ndarray:
    """int64 (situations, commands): cumulative probabilities of the commands, times 65,536."""
    names = list(COMMANDS)
    weights = np.array([[row.get(name, 0) for name in names] for row in SITUATIONS.values()], np.float64)
    return np.floor(65536 * weights.cumsum(1) / weights.sum(1, keepdims=True)).astype(np.int64)


_THRESHOLDS = _cumulative()
_TABLE = np.array(
    [[*x, *y, *c, buttons, trigger, *hold, *press]
     for x, y, c, buttons, trigger, hold, press in COMMANDS.values()], np.int64,
)  # fmt: skip


NEAR = (19.0, 22.0)
"""Maximum horizontal and vertical distance, in game units, at which a player fights instead of approaching."""
EDGE_CARE = 14.0
"""Distance from the edge, in game units, within which a player does not move outwards."""

DECISION_FRAMES = 3
"""Players decide on every third frame, which saves time: a decision costs a fifth of a frame's simulation."""
LANDING_FRAMES = 6
"""Maximum frames before landing at which a player presses for an L-cancel."""


@dataclass(slots=True)
class Players:
    """The current commands of the random players. Arrays have shape (F,)."""

    num_games: int
    keys: np.ndarray = field(init=False)
    """uint64: random number key of the player."""
    held: np.ndarray = field(init=False)
    """int64: remaining frames of the command."""
    pressed: np.ndarray = field(init=False)
    """int64: remaining frames of its buttons, trigger and C-stick."""
    command: np.ndarray = field(init=False)
    """int64 (6, F): stick x and y, C-stick x and y, trigger, buttons, in the units of `Controllers.set`."""
    near: np.ndarray = field(init=False)
    """bool: the opponent was near at the last decision."""

    def __post_init__(self) -> None:
        count = 2 * self.num_games
        self.keys = np.zeros(count, np.uint64)
        self.held, self.pressed = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.command = np.zeros((6, count), np.int64)
        self.near = np.zeros(count, np.bool_)

    def start_games(self, games: np.ndarray, keys: np.ndarray) -> None:
        """Start new players in some slots: games int (n,), keys uint64 (n,) of the games."""
        for player in range(2):
            idx = 2 * games + player
            self.keys[idx] = random_words(keys, 100 + player)
            self.held[idx] = self.pressed[idx] = 0
            self.near[idx] = False
            self.command[:, idx] = 0

    def next_frame(self, world: World, frame: np.ndarray) -> tuple[np.ndarray, ...]:
        """The controllers of the next frame.

        Args:
            world: the state after the previous frame.
            frame: int64 (G,), frame ids; players do nothing before frame 0.
        Returns:
            six int64 (F,), the arguments of `Controllers.set`.
        """
        self.held -= 1
        self.pressed -= 1
        stick = self.command[:2]
        # All games start on a multiple of DECISION_FRAMES (see simulation.BLOCK_STEPS), so one slot represents all.
        if frame[0] % DECISION_FRAMES == 0:
            near = _near(world)
            # A player who comes within reach reacts at once instead of finishing the approach.
            idx = (((self.held <= 0) | (near & ~self.near)) & np.repeat(frame >= 0, 2)).nonzero()[0]
            self.near = near
            shown = self._draw(world, idx, frame[idx >> 1])
            stick = self.command[:2].copy()
            stick[:, idx] = shown
        return (*stick, *(self.command[2:] * (self.pressed > 0)))

    def _draw(self, world: World, idx: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Draw new commands. Returns the main stick of this frame, half of the time only halfway: int64 (2, n)."""
        words = random_words(self.keys[idx], frame)
        number = (_THRESHOLDS[situations(world, idx)] <= bit_field(words, 0, 16)[:, None]).sum(1)
        row = _TABLE[number].T
        towards = _directions(world, idx)
        x = towards[row[0], np.arange(len(idx))] * _between(row[1], row[2], bit_field(words, 16, 7))
        y = _between(row[3], row[4], bit_field(words, 23, 7))
        # A real stick moves within a circle, and the processed values never leave it.
        scale = np.minimum(1.0, STICK_STEPS / np.maximum(np.sqrt(x * x + y * y), 1.0))
        x, y = np.trunc(x * scale).astype(np.int64), np.trunc(y * scale).astype(np.int64)
        c_x = towards[row[5], np.arange(len(idx))] * row[6]
        target = _apply_dead_zone(np.stack([x, y]))
        shown = np.where(bit_field(words, 30, 1) == 1, _apply_dead_zone((self.command[:2, idx] + target) // 2), target)
        self.command[:, idx] = (*target, c_x, row[7], row[9], row[8])
        self.held[idx] = _between(row[10], row[11], bit_field(words, 31, 7))
        self.pressed[idx] = _between(row[12], row[13], bit_field(words, 38, 7))
        return shown


def _between(low: np.ndarray, high: np.ndarray, random: np.ndarray) -> np.ndarray:
    """int64 (n,), uniform in [low, high], from 7 random bits."""
    return low + (random * (high - low + 1) >> 7)


def _apply_dead_zone(steps: np.ndarray) -> np.ndarray:
    return np.where(np.abs(steps) < DEAD_ZONE, 0, steps)


def _near(world: World) -> np.ndarray:
    """bool (F,): the opponent is within `NEAR`."""
    x, y = world.x.reshape(-1, 2), world.y.reshape(-1, 2)
    near = (np.abs(x[:, 1] - x[:, 0]) < NEAR[0]) & (np.abs(y[:, 1] - y[:, 0]) < NEAR[1])
    return np.repeat(near, 2)


def situations(world: World, idx: np.ndarray) -> np.ndarray:
    """The row of `SITUATIONS` of each player: int64 (n,)."""
    other = idx ^ 1
    action, x, y = world.action[idx], world.x[idx], world.y[idx]
    near = (np.abs(world.x[other] - x) < NEAR[0]) & (np.abs(world.y[other] - y) < NEAR[1])
    alive = (actions.TRAITS[world.action[other]] & Trait.UNTOUCHABLE) == 0
    air = world.airborne[idx]
    traits = actions.TRAITS[action]
    names = _SITUATION
    found = np.where(
        air,
        np.where(near & alive, names["air near"], names["air far"]),
        np.where(near & alive, names["ground near"], names["ground far"]),
    )
    late = world.age[idx] >= actions.INTERRUPTIBLE_AT[action] - 2
    found[~air & (actions.ABILITIES[action] == 0) & ~late] = names["busy"]
    above, below = world.y[other] > y + NEAR[1], world.y[other] < y - NEAR[1]
    free = ~air & (actions.ABILITIES[action] != 0)
    close = free & (np.abs(world.x[other] - x) < 2 * NEAR[0])
    found[close & above] = names["ground, opponent above"]
    found[free & (world.surface[idx] > 0) & below] = names["ground, opponent below"]
    found[(traits & Trait.SHIELD) != 0] = names["shielding"]
    attacking = (traits & Trait.AERIAL_ATTACK) != 0
    floor = world.height[:, idx].max(0, where=_under(world, idx), initial=-1e6)
    landing = y + LANDING_FRAMES * world.speed_y[idx] < floor
    found[attacking] = np.where(landing, names["air attacking, landing"], names["air attacking"])[attacking]
    outside = air & ((x < world.left[0, idx]) | (x > world.right[0, idx]))
    jumps = (world.jumps_left[idx] > 0) & (world.speed_y[idx] < 0)
    found[outside] = np.where(jumps, names["off stage"], names["off stage, jumps used"])[outside]
    found[world.hitstun[idx] > 0] = names["hurt"]
    waiting = (action == Action.CLIFF_WAIT) | (action == Action.DOWN_WAIT) | (action == Action.REBIRTH_WAIT)
    found[waiting] = names["waiting"]
    return found


def _under(world: World, idx: np.ndarray) -> np.ndarray:
    """bool (surfaces, n): whether the surface is below the fighter."""
    x, y = world.x[idx], world.y[idx]
    return (x >= world.left[:, idx]) & (x <= world.right[:, idx]) & (y >= world.height[:, idx])


def _directions(world: World, idx: np.ndarray) -> np.ndarray:
    """int64 (4, n): the sign of stick x for neutral, towards the opponent, away from it, to the middle."""
    x = world.x[idx]
    at = np.where(world.x[idx ^ 1] >= x, 1, -1)
    middle = np.where(x < 0, 1, -1)
    careful = (x < world.left[0, idx] + EDGE_CARE) | (x > world.right[0, idx] - EDGE_CARE)
    at = np.where(careful & (np.abs(world.x[idx ^ 1]) > np.abs(x)), middle, at)
    away = np.where(careful, middle, -at)
    return np.stack([np.zeros_like(at), at, away, middle])
