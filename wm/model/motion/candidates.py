"""Candidates of the next frame's velocities and positions.

Given the controllers, most motion follows simple rules exactly: gravity down to the fall speed, air drift and friction,
traction, the acceleration of a dash, the decay of knockback, the velocities of jumps; a position changes by the
velocities of the frame that it leads to. A regression approximates each of these with an error that adds up over a
dream. The heads choose among candidates instead; the regression remains one of them, for all that no rule describes.

Shape legend: B = batch, T = frames, P = players (2), N = numbers (7), M = modes, candidates of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.loading.frames import FLOAT_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import NUM_CONTROLLER, STICK_GRID, STICKS, Frames, Layout, category, facing_sign, positions
from wm.model.motion.attributes import ATTRIBUTES, attribute_table
from wm.model.motion.ledges import ledge_table, next_place, place_table
from wm.model.stages import NO_SURFACE, stage_rows, surface_below, surface_table

VELOCITIES = ("self_air_x", "self_y", "self_ground_x", "attack_x", "attack_y")
"""Predicted as differences from the previous frame; absent in files of old versions."""
NUM_VELOCITIES = len(VELOCITIES)
MOTION = (*VELOCITIES, "x", "y")
MODES: dict[str, tuple[str, ...]] = {
    "self_air_x": (
        "regressed",
        "same",
        "repeated",
        "drift",
        "air_friction",
        "as_ground",
        "jump",
        "double_jump",
        "air_dodge",
        "slowed",
        "run_off",
    ),
    "self_y": (
        "regressed",
        "same",
        "repeated",
        "gravity",
        "fast_fall",
        "full_hop",
        "short_hop",
        "double_jump",
        "air_dodge",
        "slowed",
        "zero",
    ),
    "self_ground_x": (
        "regressed",
        "same",
        "repeated",
        "traction",
        "twice_traction",
        "dash",
        "zero",
        "dash_start",
        "dash_end",
        "as_air",
        "air_dodge",
    ),
    "attack_x": ("regressed", "same", "repeated", "decay", "zero", "trajectory_di", "traction"),
    "attack_y": ("regressed", "same", "repeated", "decay", "zero", "trajectory_di"),
    "x": ("regressed", "same", "velocity", "automatic_smash_di", "smash_di", "ledge"),
    "y": ("regressed", "same", "velocity", "automatic_smash_di", "smash_di", "ledge", "surface"),
}
"""Number -> its candidates. repeated: changed as in the frame before; velocity: by the velocities of the next frame;
as_ground, on the ground, and as_air, in the air: equal to the other velocity in the next frame; air_dodge, on the
ground: out of the jump squat. Trajectory DI turns knockback when hitlag ends, automatic smash DI then moves the player
beside the velocities, smash DI during hitlag."""
NUM_MODES = max(map(len, MODES.values()))
EXISTING_MODES = tuple(tuple(float(mode < len(modes)) for mode in range(NUM_MODES)) for modes in MODES.values())
"""(N, M): 1 where a number has as many modes."""
REGRESSED = 0
AS_GROUND = MODES["self_air_x"].index("as_ground")
AS_AIR = MODES["self_ground_x"].index("as_air")
VELOCITY, BESIDE_VELOCITY = (MODES["x"].index(name) for name in ("velocity", "automatic_smash_di"))
assert tuple(MODES["y"].index(name) for name in ("velocity", "automatic_smash_di")) == (VELOCITY, BESIDE_VELOCITY)
TOLERANCE = 2e-3
"""Game units: a smaller difference from a candidate is rounding."""
MAX_REPEATED = 0.5
"""Largest change of a velocity that is repeated, game units per frame: jumps and hits are not."""
KNOCKBACK_DECAY = 0.051
"""Loss of the speed of knockback, game units per frame."""
AIR_DODGE_SPEED, AIR_DODGE_DECAY = 2.79, 0.9
"""Velocity in the first frame of an air dodge, in the direction of the stick, and what is left of it a frame later."""
TRAJECTORY_DI = math.radians(18)
"""Largest angle by which the stick turns knockback."""
SMASH_DI, AUTOMATIC_SMASH_DI = 6.0, 3.0
"""By how much a full stick moves a player in hitlag, and at its end, game units."""
DASH_END = 0.25
"""Of the speed of a dash, what is left when it ends in a turn or a shield."""
STICK_DEADZONE = 0.28
"""Of the horizontal stick, below which a character does not accelerate."""
WATCHED = (
    ("self_air_x", "drift"), ("self_air_x", "air_friction"), ("self_y", "gravity"), ("self_ground_x", "traction"),
    ("self_ground_x", "dash"), ("self_air_x", "slowed"), ("attack_x", "decay"), ("attack_y", "decay"),
)  # fmt: skip
"""Candidates of which the network sees whether they held in the last frame."""
_WATCHED = tuple((MOTION.index(number), MODES[number].index(mode)) for number, mode in WATCHED)
NUM_HISTORY = 2
"""Frames before the first one that its candidates depend on."""

_COLUMNS = tuple(FLOAT_COLUMNS.index(name) for name in MOTION)
_MAIN_STICK = slice(STICKS.index("main_x"), STICKS.index("main_y") + 1)


def mode_mask() -> Tensor:
    """EXISTING_MODES: bool (N, M)."""
    return torch.tensor(EXISTING_MODES, dtype=torch.bool)


def usual_modes() -> Tensor:
    """1 for the mode that a new network takes, constant motion: float32 (N, M)."""
    usual = torch.zeros(len(MOTION), NUM_MODES)
    for number, name in enumerate(MOTION):
        usual[number, VELOCITY if name in ("x", "y") else MODES[name].index("same")] = 1
    return usual


def motion_values(frames: Frames, before: Tensor) -> Tensor:
    """MOTION of frames: float32 (B, T, P, N).

    In games without velocities the displacement since the frame before stands for the own velocity, in the air and on
    the ground, and knockback is 0.

    Args:
        before: (B, T, P, 2), positions in the frame before each.
    """
    values = torch.stack([frames.floats[..., column] for column in _COLUMNS], dim=-1)
    place = values[..., NUM_VELOCITIES:]
    x, y = (place - before).unbind(-1)
    zero = torch.zeros_like(x)
    displaced = torch.cat([torch.stack([x, y, x, zero, zero], dim=-1), place], dim=-1)
    has_velocity = frames.present("velocity")[:, None, None, None] > 0
    return torch.where(has_velocity, values, displaced)


def total_velocity(values: Tensor) -> Tensor:
    """Displacement by the velocities of a frame, own plus knockback: (B, T, P, 2).

    On the ground, too, players move by `self_air_x`: the velocity along the ground projected on the horizontal, and one
    frame late when a dash starts.

    Args:
        values: (B, T, P, 5 or more), VELOCITIES first.
    """
    air_x, own_y, _, attack_x, attack_y = values[..., :NUM_VELOCITIES].unbind(-1)
    return torch.stack([air_x + attack_x, own_y + attack_y], dim=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Changes of MOTION from each context frame to the next. All float32, game units."""

    values: Tensor
    """(B, T, P, N), in the context frame."""
    changes: Tensor
    """(B, T, P, N, M), without the velocities of the next frame; 0 for `regressed`, `as_ground` and `as_air`: these
    depend on the heads."""
    last: Tensor
    """(B, T, P, N), changes from the frame before."""
    missed: Tensor
    """(B, T, P, W), by how much the candidates of WATCHED of the frame before missed the context frame."""
    airborne: Tensor
    """bool (B, T, P), in the context frame."""

    def since(self, first: int) -> Candidates:
        """Of the context frames from number `first` on; -1 is the last one."""
        return Candidates(
            values=self.values[:, first:],
            changes=self.changes[:, first:],
            last=self.last[:, first:],
            missed=self.missed[:, first:],
            airborne=self.airborne[:, first:],
        )


class Physics(nn.Module):
    """Computes candidates. It has no parameters; as a module it moves its tables to the model's device."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("attributes", attribute_table(), persistent=False)
        self.register_buffer("surfaces", surface_table(), persistent=False)
        self.register_buffer("ledges", ledge_table(), persistent=False)
        self.register_buffer("places", place_table(), persistent=False)

    def forward(self, frames: Frames, controllers_BTC: Tensor, history: Tensor | None) -> tuple[Candidates, Tensor]:
        """
        Args:
            frames: T context frames.
            controllers_BTC: (B, T, 26), controllers of the following frames.
            history: (B, 2, P, N), MOTION of the two frames before the first; None: as in the first.
        Returns:
            The candidates, and MOTION of the last two frames.
        """
        here = positions(frames)
        before = here[:, :1] if history is None else history[:, -1:, :, NUM_VELOCITIES:]
        values = motion_values(frames, torch.cat([before, here[:, :-1]], dim=1))
        if history is None:
            history = values[:, :1].expand(-1, NUM_HISTORY, -1, -1)
        known = torch.cat([history, values], dim=1)
        changes = known.diff(dim=1)
        # One transition more than context frames: that into the first, with the controllers of the first.
        following = controllers_BTC.unflatten(-1, (-1, NUM_CONTROLLER))[..., _MAIN_STICK] * 2 - 1
        names = ("main_x", "main_y", "c_x", "c_y")
        own = torch.stack([frames.code_column(name) for name in names], dim=-1) / STICK_GRID
        stick = torch.cat([own[:, :1, :, :2], following], dim=1)
        stick_before = _from_before(own)
        character = _from_before(category(frames, "character"))
        x = known[:, 1:, :, NUM_VELOCITIES]
        action, age = _from_before(frames.code_column("action")), _from_before(frames.float_column("state_age"))
        ledge = stage_rows(frames, self.ledges)
        place = next_place(action, age, character, x, ledge, self.places)
        surfaces = stage_rows(frames, self.surfaces)
        steps = _changes(known[:, 1:], changes, stick, stick_before, self.attributes[character], surfaces, place)
        last = changes[:, 1:]
        missed = [steps[:, :-1, :, number, mode] - last[..., number] for number, mode in _WATCHED]
        candidates = Candidates(
            values=values,
            changes=steps[:, 1:],
            last=last,
            missed=torch.stack(missed, dim=-1),
            airborne=frames.code_column("airborne") != 0,
        )
        return candidates, known[:, -NUM_HISTORY:]


def _from_before(values: Tensor) -> Tensor:
    """One frame more, before the first one and equal to it."""
    return torch.cat([values[:, :1], values], dim=1)


def _changes(
    values: Tensor,
    last: Tensor,
    stick: Tensor,
    stick_before: Tensor,
    attributes: Tensor,
    surfaces: Tensor,
    place: tuple[Tensor, Tensor],
) -> Tensor:
    """Candidates' changes: (B, T, P, N, M).

    Args:
        values: (B, T, P, N), MOTION.
        last: (B, T, P, N), its last changes.
        stick: (B, T, P, 2), in [-1, 1], in the next frame.
        stick_before: (B, T, P, 4), main stick and C-stick in this frame.
        attributes: (B, T, P, ATTRIBUTES).
        surfaces: (B, 1, 1, S, 4), rows of `surface_table`.
        place: (B, T, P) twice, x and y on a ledge.
    """
    air_x, own_y, ground_x, attack_x, attack_y, x, y = values.unbind(-1)
    of = dict(zip(ATTRIBUTES, attributes.unbind(-1), strict=True))
    repeated = torch.where(last.abs() > MAX_REPEATED, 0.0, last)
    zero = torch.zeros_like(x)
    direction = stick / torch.linalg.vector_norm(stick, dim=-1, keepdim=True).clamp(min=1e-3)
    dodge_x, dodge_y = (AIR_DODGE_SPEED * direction).unbind(-1)
    stick_next, stick = stick, stick[..., 0]
    stick = torch.where(stick.abs() < STICK_DEADZONE, 0.0, stick)
    air = of["air_stick"], of["air_base"], of["air_speed"], of["air_friction"]
    drift = driven(air_x, stick, *air)
    double_jump = driven(of["double_jump_stick"] * stick, stick, *air)
    jump = ground_x * of["jump_momentum"] + stick_before[..., 0] * of["jump_stick"]
    jump = jump.clamp(-of["jump_speed"], of["jump_speed"])
    start = of["dash_start"] * stick.sign()
    dash_start = torch.where(ground_x * start < 0, ground_x + start, start)
    dash = driven(ground_x, stick, of["dash_stick"], of["dash_base"], of["dash_speed"], of["traction"])
    # A fall beyond the fall speed is a fast fall, which goes on.
    fall = torch.minimum(own_y, torch.maximum(own_y - of["gravity"], -of["fall_speed"]))
    limit = torch.minimum(own_y, -of["fast_fall_speed"])
    falls_on = torch.where(
        of["fast_fall_speed"] > 0, torch.maximum(own_y + repeated[..., 1], limit) - own_y, repeated[..., 1]
    )
    # Clamped before the root, whose gradient at 0 is infinite.
    speed = (attack_x.square() + attack_y.square()).clamp(min=KNOCKBACK_DECAY**2).sqrt()
    decay = -KNOCKBACK_DECAY / speed
    across = (attack_x * stick_before[..., 1] - attack_y * stick_before[..., 0]) / speed
    turn = TRAJECTORY_DI * across * across.abs()
    turned_x, turned_y = attack_x * turn.cos() - attack_y * turn.sin(), attack_x * turn.sin() + attack_y * turn.cos()
    slowed_ground = toward_zero(ground_x, of["traction"])
    run_off = slowed_ground.clamp(-of["air_speed"], of["air_speed"])
    dash_end = toward_zero(DASH_END * ground_x, of["traction"])
    c_stick = stick_before[..., 2:]
    is_tilted = torch.linalg.vector_norm(c_stick, dim=-1, keepdim=True) > STICK_DEADZONE
    automatic = AUTOMATIC_SMASH_DI * torch.where(is_tilted, c_stick, stick_before[..., :2])
    smash = SMASH_DI * stick_next
    ledge_x, ledge_y = (torch.nan_to_num(to - value) for to, value in zip(place, (x, y), strict=True))
    surface = surface_below(x, y, surfaces)
    numbers = [
        [
            zero, zero, repeated[..., 0], drift - air_x, toward_zero(air_x, of["air_friction"]) - air_x, zero,
            jump - air_x, double_jump - air_x, dodge_x - air_x, air_x * (AIR_DODGE_DECAY - 1),
            run_off - air_x,
        ],
        [
            zero, zero, falls_on, fall - own_y, -of["fast_fall_speed"] - own_y, of["full_hop"] - own_y,
            of["short_hop"] - own_y, of["double_jump"] - own_y,
            dodge_y - own_y, own_y * (AIR_DODGE_DECAY - 1), -own_y,
        ],
        [
            zero, zero, _stopped(ground_x, repeated[..., 2]), slowed_ground - ground_x,
            toward_zero(ground_x, 2 * of["traction"]) - ground_x, dash - ground_x, -ground_x,
            dash_start - ground_x, dash_end - ground_x, zero, dodge_x - ground_x,
        ],
        [
            zero, zero, _stopped(attack_x, repeated[..., 3]), attack_x * decay, -attack_x,
            turned_x * (1 + decay) - attack_x, toward_zero(attack_x, of["traction"]) - attack_x,
        ],
        [
            zero, zero, _stopped(attack_y, repeated[..., 4]), attack_y * decay, -attack_y,
            turned_y * (1 + decay) - attack_y,
        ],
        [zero, zero, zero, automatic[..., 0], smash[..., 0], ledge_x],
        [
            zero, zero, zero, automatic[..., 1], smash[..., 1], ledge_y,
            torch.where(surface == NO_SURFACE, 0.0, surface - y),
        ],
    ]  # fmt: skip
    padded = [torch.stack(row + [zero] * (NUM_MODES - len(row)), dim=-1) for row in numbers]
    return torch.stack(padded, dim=-2)


def _stopped(value: Tensor, change: Tensor) -> Tensor:
    """A change of a velocity that ends at 0 rather than beyond."""
    return torch.where(value * (value + change) < 0, -value, change)


def toward_zero(value: Tensor, step: Tensor) -> Tensor:
    """A velocity after one frame of friction."""
    return value - value.clamp(-step, step)


def driven(value: Tensor, stick: Tensor, by_stick: Tensor, base: Tensor, speed: Tensor, friction: Tensor) -> Tensor:
    """A horizontal velocity after one frame of acceleration by the stick, up to a share of the largest speed.

    A velocity beyond that share slows down by friction; without the stick, to 0. So does the game in the air
    (`ftCommon_8007D174` of its decompilation) and, nearly, in a dash.
    """
    acceleration = stick * by_stick + stick.sign() * base
    target = stick * speed
    faster = value + acceleration
    opposed = value * acceleration < 0
    right = (acceleration > 0) & (faster > target) & ~opposed
    left = (acceleration < 0) & (faster < target) & ~opposed
    result = torch.where(right, torch.maximum(value - friction, target), faster)
    result = torch.where(left, torch.minimum(value + friction, target), result)
    return torch.where(stick == 0, toward_zero(value, friction), result)


FOURIER_PERIODS = (1.0, 4.0, 16.0)
"""Of velocities, game units per frame."""
NUM_FEATURES = len(MOTION) + NUM_VELOCITIES * (1 + 2 * len(FOURIER_PERIODS)) + len(WATCHED) + 4
MOTION_LAYOUT: Layout = ((NUM_PLAYERS, NUM_FEATURES),)
"""Of `motion_features`."""
_HORIZONTAL = tuple(name.endswith("x") for name in MOTION)


def motion_features(candidates: Candidates, frames: Frames) -> Tensor:
    """What the scaled columns of the encoding do not resolve: small changes, and which rules held: (B, T, P * C)."""
    facing = facing_sign(frames)
    sign = torch.stack([facing if horizontal else torch.ones_like(facing) for horizontal in _HORIZONTAL], dim=-1)
    last = candidates.last * sign
    velocity = candidates.values[..., :NUM_VELOCITIES] * sign[..., :NUM_VELOCITIES]
    angles = torch.cat([velocity * (2 * torch.pi / period) for period in FOURIER_PERIODS], dim=-1)
    displaced = candidates.last[..., NUM_VELOCITIES:] - total_velocity(candidates.values)
    features = [
        (last * 10).tanh(),
        (velocity * 0.5).clamp(-3, 3),
        angles.sin(),
        angles.cos(),
        _held(candidates.missed),
        (displaced * sign[..., NUM_VELOCITIES:] * 5).tanh(),
        _held(displaced),
    ]
    return torch.cat(features, dim=-1).flatten(2)


def _held(missed: Tensor) -> Tensor:
    """1 where a candidate held, near 0 where it missed by more than rounding."""
    return (-(missed / (2 * TOLERANCE)).square()).exp()
