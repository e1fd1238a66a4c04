"""Melee's action states: how long they last, what they allow, and the attacks.

Action state ids are Melee's own (Slippi SPEC.md, Melee IDs). Durations and first state ages are rounded medians of real
replays. Attacks are fictitious, within the range of the real ones. All tables are indexed by action state id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NUM_ACTIONS = 400
FOREVER = 1e9
"""Duration in frames of a state that only an input, a hit or a landing ends."""


class Action:
    """Ids of the action states in the simulation."""

    DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP = 0, 1, 2, 4
    REBIRTH, REBIRTH_WAIT = 12, 13
    WAIT, WALK_SLOW, WALK_MIDDLE, WALK_FAST = 14, 15, 16, 17
    TURN, TURN_RUN, DASH, RUN, RUN_BRAKE = 18, 19, 20, 21, 23
    KNEE_BEND, JUMP_F, JUMP_B, JUMP_AERIAL_F, JUMP_AERIAL_B = 24, 25, 26, 27, 28
    FALL, FALL_AERIAL, FALL_SPECIAL, DAMAGE_FALL = 29, 32, 35, 38
    SQUAT, SQUAT_WAIT, SQUAT_RISE = 39, 40, 41
    LANDING, LANDING_FALL_SPECIAL = 42, 43
    JAB, DASH_ATTACK, SIDE_TILT, UP_TILT, DOWN_TILT = 44, 50, 53, 56, 57
    SIDE_SMASH, UP_SMASH, DOWN_SMASH = 60, 63, 64
    AIR_NEUTRAL, AIR_FORWARD, AIR_BACK, AIR_UP, AIR_DOWN = 65, 66, 67, 68, 69
    LANDING_AIR_NEUTRAL = 70
    DAMAGE_GROUND, DAMAGE_AIR = 78, 84
    FLY_HIGH, FLY_NEUTRAL, FLY_LOW, FLY_TOP = 87, 88, 89, 90
    GUARD_ON, GUARD, GUARD_OFF, GUARD_SET_OFF = 178, 179, 180, 181
    DOWN_BOUND, DOWN_WAIT, DOWN_STAND = 183, 184, 186
    PASSIVE = 199
    SHIELD_BREAK_FLY, DAZED = 205, 211
    CATCH = 212
    ROLL_FORWARD, ROLL_BACK, SPOT_DODGE, AIR_DODGE = 233, 234, 235, 236
    PLATFORM_DROP = 244
    CLIFF_CATCH, CLIFF_WAIT, CLIFF_CLIMB = 252, 253, 255
    ENTRY, ENTRY_START, ENTRY_END = 322, 323, 324
    UP_SPECIAL = 368


class Ability:
    """Bits of `ABILITIES`: the actions that a fighter can start from a state."""

    STEER = 1
    DASH = 2
    SHIELD = 4
    JUMP = 8
    GROUND_ATTACK = 16
    AIR_MOVE = 32
    GUARD_OPTION = 64
    RISE = 128


class Trait:
    """Bits of `TRAITS`: properties of a state for the other rules."""

    STATIC = 1
    """Without physics: dead, entering, on the respawn platform, on the ledge."""
    UNTOUCHABLE = 2
    """Hits have no effect, in addition to `hurtbox_state`."""
    DAMAGE = 4
    TUMBLE = 8
    """Lands on its back, or techs."""
    ATTACK = 16
    EDGE_STOP = 32
    """Stops at the edge of the ground instead of leaving it."""
    SHIELD = 64
    DRIFT = 128
    """In the air; the stick moves the fighter."""
    WALK = 256
    DASH = 512
    LEDGE = 1024
    """Can grab the ledge."""
    AERIAL_ATTACK = 2048
    HELPLESS = 4096
    """Lands with the landing lag of special fall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """One attack. Ages are state ages, which start at 1 in an attack."""

    action: int
    """Action state id."""
    attack_id: int
    """Melee's attack id, as in `last_attack_landed`."""
    active: tuple[float, float]
    """First and last state age of the hitbox."""
    frames: float
    """Duration, in frames."""
    interruptible: float
    """State age from which another action can start (IASA)."""
    damage: float
    """Percent."""
    angle: float
    """Launch angle in degrees, 0 = where `reach` points, 90 = up."""
    base: float
    """Base knockback, in Melee's knockback units."""
    growth: float
    """Knockback growth, in percent."""
    reach: float
    """Hitbox centre ahead of the fighter (negative: behind), in game units."""
    height: float
    """Hitbox centre above the fighter's feet, in game units."""
    radius: float
    """Hitbox radius, in game units."""
    landing: float = 0.0
    """Landing lag of an aerial without L-cancel, in frames."""


def _attack(
    action: int, attack_id: int, active: tuple[float, float], timing: tuple[float, float],
    hit: tuple[float, float, float, float], box: tuple[float, float, float], landing: float = 0.0,
) -> Attack:  # fmt: skip
    frames, interruptible = timing
    damage, angle, base, growth = hit
    reach, height, radius = box
    return Attack(
        action=action, attack_id=attack_id, active=active, frames=frames, interruptible=interruptible,
        damage=damage, angle=angle, base=base, growth=growth,
        reach=reach, height=height, radius=radius, landing=landing,
    )  # fmt: skip


A = Action
ATTACKS = (
    _attack(A.JAB, 2, (2, 3), (17, 16), (6, 70, 20, 55), (9, 8, 6)),
    _attack(A.DASH_ATTACK, 6, (5, 12), (38, 36), (14, 60, 45, 80), (9, 6, 7)),
    _attack(A.SIDE_TILT, 7, (5, 8), (30, 28), (13, 40, 20, 110), (13, 7, 7)),
    _attack(A.UP_TILT, 8, (5, 10), (31, 28), (13, 85, 40, 120), (4, 13, 8)),
    _attack(A.DOWN_TILT, 9, (6, 8), (29, 26), (13, 75, 35, 100), (12, 2, 7)),
    _attack(A.SIDE_SMASH, 10, (12, 16), (47, 45), (23, 42, 30, 115), (14, 8, 8)),
    _attack(A.UP_SMASH, 11, (9, 13), (45, 42), (22, 85, 35, 115), (3, 16, 9)),
    _attack(A.DOWN_SMASH, 12, (7, 10), (47, 45), (20, 30, 30, 105), (11, 3, 9)),
    _attack(A.AIR_NEUTRAL, 13, (4, 20), (45, 40), (14, 45, 20, 110), (3, 7, 9), 15),
    _attack(A.AIR_FORWARD, 14, (7, 11), (42, 36), (18, 48, 30, 110), (12, 8, 8), 20),
    _attack(A.AIR_BACK, 15, (5, 9), (40, 34), (19, 48, 20, 115), (-11, 8, 8), 20),
    _attack(A.AIR_UP, 16, (5, 10), (38, 34), (17, 82, 25, 115), (1, 15, 9), 18),
    _attack(A.AIR_DOWN, 17, (6, 14), (45, 40), (17, -70, 20, 100), (2, 0, 9), 22),
)


class _State(NamedTuple):
    frames: float
    """Duration."""
    next_action: int
    """The state that follows when it ends by itself, or with its hitstun."""
    abilities: int
    """Bits of `Ability`."""
    traits: int
    """Bits of `Trait`."""
    first_age: float
    """State age on the first frame."""
    animation: int
    """Animation index, -1 for none; from real replays."""


_MOBILE = Ability.STEER | Ability.DASH | Ability.SHIELD | Ability.JUMP | Ability.GROUND_ATTACK
_CROUCHED = Ability.RISE | Ability.JUMP | Ability.SHIELD | Ability.GROUND_ATTACK
_FREE_AIR = Trait.DRIFT | Trait.LEDGE
_ATTACK_ANIMATIONS = {A.JAB: 46, A.DASH_ATTACK: 52, A.SIDE_TILT: 55, A.UP_TILT: 58, A.DOWN_TILT: 59, A.SIDE_SMASH: 62,
                      A.UP_SMASH: 66, A.DOWN_SMASH: 67}  # fmt: skip
AERIALS = tuple(row for row in ATTACKS if A.AIR_NEUTRAL <= row.action <= A.AIR_DOWN)


def _landing_state(aerial: int) -> int:
    """The action state of landing during an aerial attack."""
    return aerial + A.LANDING_AIR_NEUTRAL - A.AIR_NEUTRAL


def _attack_state(row: Attack) -> _State:
    if row in AERIALS:
        return _State(row.frames, A.FALL, 0, Trait.ATTACK | Trait.DRIFT | Trait.AERIAL_ATTACK, 1, row.action + 3)
    return _State(row.frames, A.WAIT, 0, Trait.ATTACK | Trait.EDGE_STOP, 1, _ATTACK_ANIMATIONS[row.action])


_STATES: dict[int, _State] = {
    **{dead: _State(60, A.REBIRTH, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, -1)
       for dead in (A.DEAD_DOWN, A.DEAD_LEFT, A.DEAD_RIGHT, A.DEAD_UP)},
    A.REBIRTH: _State(60, A.REBIRTH_WAIT, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, 2),
    A.REBIRTH_WAIT: _State(240, A.FALL, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, 2),
    A.WAIT: _State(FOREVER, A.WAIT, _MOBILE, 0, 0, 2),
    A.WALK_SLOW: _State(FOREVER, A.WAIT, _MOBILE, Trait.WALK, 1, 7),
    A.WALK_MIDDLE: _State(FOREVER, A.WAIT, _MOBILE, Trait.WALK, 1, 8),
    A.WALK_FAST: _State(FOREVER, A.WAIT, _MOBILE, Trait.WALK, 1, 9),
    A.TURN: _State(11, A.WAIT, _MOBILE & ~Ability.STEER, Trait.EDGE_STOP, 1, 10),
    A.TURN_RUN: _State(20, A.WAIT, Ability.JUMP, Trait.EDGE_STOP, 1, 11),
    A.DASH: _State(15, A.RUN, Ability.DASH | Ability.SHIELD | Ability.JUMP | Ability.GROUND_ATTACK, Trait.DASH, 1, 12),
    A.RUN: _State(FOREVER, A.RUN, Ability.SHIELD | Ability.JUMP | Ability.GROUND_ATTACK, Trait.DASH, 0, 13),
    A.RUN_BRAKE: _State(18, A.WAIT, Ability.JUMP, Trait.EDGE_STOP, 0, 14),
    A.KNEE_BEND: _State(FOREVER, A.JUMP_F, 0, 0, 0, 15),
    A.JUMP_F: _State(38, A.FALL, Ability.AIR_MOVE, _FREE_AIR, 0, 16),
    A.JUMP_B: _State(38, A.FALL, Ability.AIR_MOVE, _FREE_AIR, 0, 17),
    A.JUMP_AERIAL_F: _State(40, A.FALL_AERIAL, Ability.AIR_MOVE, _FREE_AIR, 0, 18),
    A.JUMP_AERIAL_B: _State(40, A.FALL_AERIAL, Ability.AIR_MOVE, _FREE_AIR, 0, 19),
    A.FALL: _State(FOREVER, A.FALL, Ability.AIR_MOVE, _FREE_AIR, 0, 20),
    A.FALL_AERIAL: _State(FOREVER, A.FALL_AERIAL, Ability.AIR_MOVE, _FREE_AIR, 0, 23),
    A.FALL_SPECIAL: _State(FOREVER, A.FALL_SPECIAL, 0, _FREE_AIR | Trait.HELPLESS, 0, 26),
    A.DAMAGE_FALL: _State(FOREVER, A.DAMAGE_FALL, Ability.AIR_MOVE, _FREE_AIR | Trait.TUMBLE, 0, 29),
    A.SQUAT: _State(7, A.SQUAT_WAIT, Ability.JUMP | Ability.GROUND_ATTACK, Trait.EDGE_STOP, 1, 30),
    A.SQUAT_WAIT: _State(FOREVER, A.SQUAT_WAIT, _CROUCHED, Trait.EDGE_STOP, 0, 31),
    A.SQUAT_RISE: _State(10, A.WAIT, _MOBILE & ~Ability.STEER, Trait.EDGE_STOP, 0, 34),
    A.LANDING: _State(4, A.WAIT, 0, 0, 0, 35),
    A.LANDING_FALL_SPECIAL: _State(10, A.WAIT, 0, 0, 0, 36),
    A.GUARD_ON: _State(8, A.GUARD, Ability.GUARD_OPTION | Ability.JUMP, Trait.SHIELD | Trait.EDGE_STOP, 0, -1),
    A.GUARD: _State(FOREVER, A.GUARD, Ability.GUARD_OPTION | Ability.JUMP, Trait.SHIELD | Trait.EDGE_STOP, 0, -1),
    A.GUARD_OFF: _State(15, A.WAIT, Ability.JUMP, Trait.EDGE_STOP, 0, 39),
    A.GUARD_SET_OFF: _State(FOREVER, A.GUARD, 0, Trait.SHIELD | Trait.EDGE_STOP, 0, 40),
    A.DOWN_BOUND: _State(26, A.DOWN_WAIT, 0, Trait.EDGE_STOP, 0, 183),
    A.DOWN_WAIT: _State(60, A.DOWN_STAND, 0, Trait.EDGE_STOP, 1, 184),
    A.DOWN_STAND: _State(30, A.WAIT, 0, Trait.EDGE_STOP, 0, 186),
    A.PASSIVE: _State(26, A.WAIT, 0, Trait.EDGE_STOP, 0, 199),
    A.SHIELD_BREAK_FLY: _State(FOREVER, A.FALL, 0, 0, 0, 205),
    A.DAZED: _State(180, A.WAIT, 0, Trait.EDGE_STOP, 0, 211),
    A.CATCH: _State(30, A.WAIT, 0, Trait.EDGE_STOP, 0, 242),
    A.ROLL_FORWARD: _State(31, A.WAIT, 0, Trait.EDGE_STOP, 1, 42),
    A.ROLL_BACK: _State(31, A.WAIT, 0, Trait.EDGE_STOP, 1, 43),
    A.SPOT_DODGE: _State(22, A.WAIT, 0, Trait.EDGE_STOP, 1, 41),
    A.AIR_DODGE: _State(49, A.FALL_SPECIAL, 0, Trait.HELPLESS, 1, 44),
    A.PLATFORM_DROP: _State(30, A.FALL, Ability.AIR_MOVE, _FREE_AIR, 0, 209),
    A.CLIFF_CATCH: _State(7, A.CLIFF_WAIT, 0, Trait.STATIC, 1, 216),
    A.CLIFF_WAIT: _State(300, A.FALL, 0, Trait.STATIC, 0, 217),
    A.CLIFF_CLIMB: _State(34, A.WAIT, 0, Trait.STATIC, 1, 220),
    A.ENTRY: _State(40, A.ENTRY_START, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, -1),
    A.ENTRY_START: _State(29, A.ENTRY_END, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, 238),
    A.ENTRY_END: _State(30, A.WAIT, 0, Trait.STATIC | Trait.UNTOUCHABLE, 0, -1),
    A.UP_SPECIAL: _State(30, A.FALL_SPECIAL, 0, _FREE_AIR | Trait.HELPLESS, 1, 305),
    **{_landing_state(row.action): _State(row.landing, A.WAIT, 0, 0, 0, row.action + 8) for row in AERIALS},
    **{A.DAMAGE_GROUND + k: _State(FOREVER, A.WAIT, 0, Trait.DAMAGE, 1, 168 + k) for k in range(3)},
    **{A.DAMAGE_AIR + k: _State(FOREVER, A.FALL, 0, Trait.DAMAGE, 1, 174 + k) for k in range(3)},
    **{A.FLY_HIGH + k: _State(FOREVER, A.DAMAGE_FALL, 0, Trait.DAMAGE | Trait.TUMBLE, 1, 177 + k) for k in range(4)},
    **{row.action: _attack_state(row) for row in ATTACKS},
}  # fmt: skip

_INTANGIBLE_AGES: dict[int, tuple[float, float]] = {
    A.SPOT_DODGE: (2, 15), A.ROLL_FORWARD: (4, 19), A.ROLL_BACK: (4, 19), A.AIR_DODGE: (4, 29),
    A.CLIFF_CATCH: (1, 7), A.CLIFF_WAIT: (0, 30), A.CLIFF_CLIMB: (1, 30), A.PASSIVE: (0, 20), A.DOWN_STAND: (0, 22),
}  # fmt: skip
"""Action state -> first and last state age with `hurtbox_state` 2 (intangible)."""


def _table(values: Mapping[int, float], default: float, dtype: type) -> np.ndarray:
    """(NUM_ACTIONS,): the value of each action state."""
    return np.array([values.get(action, default) for action in range(NUM_ACTIONS)], dtype)


ENDS_AT = _table({action: state.frames + state.first_age for action, state in _STATES.items()}, FOREVER, np.float32)
"""State age at which a state ends by itself."""
NEXT = _table({action: state.next_action for action, state in _STATES.items()}, A.WAIT, np.int16)
ABILITIES = _table({action: state.abilities for action, state in _STATES.items()}, 0, np.uint8)
INTERRUPTIBLE_AT = _table({row.action: row.interruptible for row in ATTACKS}, FOREVER, np.float32)
INTERRUPT_ABILITIES = _table(
    {row.action: Ability.AIR_MOVE if row in AERIALS else _MOBILE & ~Ability.STEER for row in ATTACKS}, 0, np.uint8
)
"""Bits of `Ability` that are added once the state age reaches `INTERRUPTIBLE_AT`."""
TRAITS = _table({action: state.traits for action, state in _STATES.items()}, 0, np.uint16)
FIRST_AGE = _table({action: state.first_age for action, state in _STATES.items()}, 0, np.float32)
ANIMATION = _table({action: state.animation for action, state in _STATES.items()}, -1, np.int64).astype(np.uint32)
"""`animation_index`; 0xFFFFFFFF means none."""
GRAVITY_FACTOR = _table({A.AIR_DODGE: 0.0, A.UP_SPECIAL: 0.6}, 1, np.float32)
"""Factor on the fighter's gravity."""
ACTIVE_FROM = _table({row.action: row.active[0] for row in ATTACKS}, FOREVER, np.float32)
ACTIVE_TO = _table({row.action: row.active[1] for row in ATTACKS}, -1, np.float32)
INTANGIBLE_FROM = _table({action: first for action, (first, _) in _INTANGIBLE_AGES.items()}, FOREVER, np.float32)
INTANGIBLE_TO = _table({action: last for action, (_, last) in _INTANGIBLE_AGES.items()}, -1, np.float32)
ATTACK_INDEX = _table({row.action: index for index, row in enumerate(ATTACKS)}, -1, np.int16)
"""Row of `ATTACKS`; -1 is not an attack."""


def attack_column(field: str) -> np.ndarray:
    """One column of `ATTACKS` as float32 (rows,), in the units of `Attack`."""
    return np.array([getattr(row, field) for row in ATTACKS], np.float32)
