"""What a fighter can be doing: Melee's action states, how long they last, what they allow, and the attacks.

Action-state ids are Melee's own (Slippi SPEC.md, "Melee IDs"); durations and first ages are the medians of real
replays, rounded; attacks are invented, in the range of the real ones. All tables are indexed by action-state id.
"""

from dataclasses import dataclass

import numpy as np

NUM_ACTIONS = 400
FOREVER = 1e9
"""Duration of a state that only a controller, a hit or the ground can end, in frames."""


class Action:
    """Ids of the action states that the simulation uses."""

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


class Can:
    """Bits of `ABILITIES`: what a fighter may start from a state."""

    STEER = 1
    DASH = 2
    SHIELD = 4
    JUMP = 8
    GROUND_ATTACK = 16
    AIR_MOVE = 32
    GUARD_OPTION = 64
    RISE = 128


class Is:
    """Bits of `TRAITS`: what the other rules need to know about a state."""

    STATIC = 1
    """No physics: dead, entering, on the revival platform, on the ledge."""
    UNTOUCHABLE = 2
    """Hits pass through (besides what `hurtbox_state` says)."""
    DAMAGE = 4
    TUMBLE = 8
    """Lands on its back or techs."""
    ATTACK = 16
    EDGE_STOP = 32
    """Stops at the edge of the ground instead of walking off."""
    SHIELD = 64
    DRIFT = 128
    """In the air: the stick steers."""
    WALK = 256
    DASH = 512
    LEDGE = 1024
    """May catch the ledge."""
    AERIAL_ATTACK = 2048
    HELPLESS = 4096
    """Lands with the long lag of special fall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """One attack; ages are the state's `state_age`, which starts at 1 in an attack."""

    action: int
    """Action-state id."""
    attack_id: int
    """Melee's attack id, as in `last_attack_landed`."""
    active: tuple[float, float]
    """First and last age at which it hits."""
    frames: float
    """Duration, in frames."""
    interruptible: float
    """Age from which another action may start."""
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

_MOBILE = Can.STEER | Can.DASH | Can.SHIELD | Can.JUMP | Can.GROUND_ATTACK
_FREE_AIR = Is.DRIFT | Is.LEDGE

# action: (frames, next action, abilities, traits, first age, animation index); animation indices from real replays.
_STATES: dict[int, tuple[float, int, int, int, float, int]] = {
    **{dead: (60, A.REBIRTH, 0, Is.STATIC | Is.UNTOUCHABLE, 0, -1)
       for dead in (A.DEAD_DOWN, A.DEAD_LEFT, A.DEAD_RIGHT, A.DEAD_UP)},
    A.REBIRTH: (60, A.REBIRTH_WAIT, 0, Is.STATIC | Is.UNTOUCHABLE, 0, 2),
    A.REBIRTH_WAIT: (240, A.FALL, 0, Is.STATIC | Is.UNTOUCHABLE, 0, 2),
    A.WAIT: (FOREVER, A.WAIT, _MOBILE, 0, 0, 2),
    A.WALK_SLOW: (FOREVER, A.WAIT, _MOBILE, Is.WALK, 1, 7),
    A.WALK_MIDDLE: (FOREVER, A.WAIT, _MOBILE, Is.WALK, 1, 8),
    A.WALK_FAST: (FOREVER, A.WAIT, _MOBILE, Is.WALK, 1, 9),
    A.TURN: (11, A.WAIT, _MOBILE & ~Can.STEER, Is.EDGE_STOP, 1, 10),
    A.TURN_RUN: (20, A.WAIT, Can.JUMP, Is.EDGE_STOP, 1, 11),
    A.DASH: (15, A.RUN, Can.DASH | Can.SHIELD | Can.JUMP | Can.GROUND_ATTACK, Is.DASH, 1, 12),
    A.RUN: (FOREVER, A.RUN, Can.SHIELD | Can.JUMP | Can.GROUND_ATTACK, Is.DASH, 0, 13),
    A.RUN_BRAKE: (18, A.WAIT, Can.JUMP, Is.EDGE_STOP, 0, 14),
    A.KNEE_BEND: (FOREVER, A.JUMP_F, 0, 0, 0, 15),
    A.JUMP_F: (38, A.FALL, Can.AIR_MOVE, _FREE_AIR, 0, 16),
    A.JUMP_B: (38, A.FALL, Can.AIR_MOVE, _FREE_AIR, 0, 17),
    A.JUMP_AERIAL_F: (40, A.FALL_AERIAL, Can.AIR_MOVE, _FREE_AIR, 0, 18),
    A.JUMP_AERIAL_B: (40, A.FALL_AERIAL, Can.AIR_MOVE, _FREE_AIR, 0, 19),
    A.FALL: (FOREVER, A.FALL, Can.AIR_MOVE, _FREE_AIR, 0, 20),
    A.FALL_AERIAL: (FOREVER, A.FALL_AERIAL, Can.AIR_MOVE, _FREE_AIR, 0, 23),
    A.FALL_SPECIAL: (FOREVER, A.FALL_SPECIAL, 0, _FREE_AIR | Is.HELPLESS, 0, 26),
    A.DAMAGE_FALL: (FOREVER, A.DAMAGE_FALL, Can.AIR_MOVE, _FREE_AIR | Is.TUMBLE, 0, 29),
    A.SQUAT: (7, A.SQUAT_WAIT, Can.JUMP | Can.GROUND_ATTACK, Is.EDGE_STOP, 1, 30),
    A.SQUAT_WAIT: (FOREVER, A.SQUAT_WAIT, Can.RISE | Can.JUMP | Can.SHIELD | Can.GROUND_ATTACK, Is.EDGE_STOP, 0, 31),
    A.SQUAT_RISE: (10, A.WAIT, _MOBILE & ~Can.STEER, Is.EDGE_STOP, 0, 34),
    A.LANDING: (4, A.WAIT, 0, 0, 0, 35),
    A.LANDING_FALL_SPECIAL: (10, A.WAIT, 0, 0, 0, 36),
    A.GUARD_ON: (8, A.GUARD, Can.GUARD_OPTION | Can.JUMP, Is.SHIELD | Is.EDGE_STOP, 0, -1),
    A.GUARD: (FOREVER, A.GUARD, Can.GUARD_OPTION | Can.JUMP, Is.SHIELD | Is.EDGE_STOP, 0, -1),
    A.GUARD_OFF: (15, A.WAIT, Can.JUMP, Is.EDGE_STOP, 0, 39),
    A.GUARD_SET_OFF: (FOREVER, A.GUARD, 0, Is.SHIELD | Is.EDGE_STOP, 0, 40),
    A.DOWN_BOUND: (26, A.DOWN_WAIT, 0, Is.EDGE_STOP, 0, 183),
    A.DOWN_WAIT: (60, A.DOWN_STAND, 0, Is.EDGE_STOP, 1, 184),
    A.DOWN_STAND: (30, A.WAIT, 0, Is.EDGE_STOP, 0, 186),
    A.PASSIVE: (26, A.WAIT, 0, Is.EDGE_STOP, 0, 199),
    A.SHIELD_BREAK_FLY: (FOREVER, A.FALL, 0, 0, 0, 205),
    A.DAZED: (180, A.WAIT, 0, Is.EDGE_STOP, 0, 211),
    A.CATCH: (30, A.WAIT, 0, Is.EDGE_STOP, 0, 242),
    A.ROLL_FORWARD: (31, A.WAIT, 0, Is.EDGE_STOP, 1, 42),
    A.ROLL_BACK: (31, A.WAIT, 0, Is.EDGE_STOP, 1, 43),
    A.SPOT_DODGE: (22, A.WAIT, 0, Is.EDGE_STOP, 1, 41),
    A.AIR_DODGE: (49, A.FALL_SPECIAL, 0, Is.HELPLESS, 1, 44),
    A.PLATFORM_DROP: (30, A.FALL, Can.AIR_MOVE, _FREE_AIR, 0, 209),
    A.CLIFF_CATCH: (7, A.CLIFF_WAIT, 0, Is.STATIC, 1, 216),
    A.CLIFF_WAIT: (300, A.FALL, 0, Is.STATIC, 0, 217),
    A.CLIFF_CLIMB: (34, A.WAIT, 0, Is.STATIC, 1, 220),
    A.ENTRY: (40, A.ENTRY_START, 0, Is.STATIC | Is.UNTOUCHABLE, 0, -1),
    A.ENTRY_START: (29, A.ENTRY_END, 0, Is.STATIC | Is.UNTOUCHABLE, 0, 238),
    A.ENTRY_END: (30, A.WAIT, 0, Is.STATIC | Is.UNTOUCHABLE, 0, -1),
    A.UP_SPECIAL: (30, A.FALL_SPECIAL, 0, _FREE_AIR | Is.HELPLESS, 1, 305),
    **{A.LANDING_AIR_NEUTRAL + k: (FOREVER, A.WAIT, 0, 0, 0, 73 + k) for k in range(5)},
    **{A.DAMAGE_GROUND + k: (FOREVER, A.WAIT, 0, Is.DAMAGE, 1, 168 + k) for k in range(3)},
    **{A.DAMAGE_AIR + k: (FOREVER, A.FALL, 0, Is.DAMAGE, 1, 174 + k) for k in range(3)},
    **{A.FLY_HIGH + k: (FOREVER, A.DAMAGE_FALL, 0, Is.DAMAGE | Is.TUMBLE, 1, 177 + k) for k in range(4)},
}  # fmt: skip
_ATTACK_ANIMATION = {
    44: 46,
    50: 52,
    53: 55,
    56: 58,
    57: 59,
    60: 62,
    63: 66,
    64: 67,
    **{65 + k: 68 + k for k in range(5)},
}

ENDS_AT = np.full(NUM_ACTIONS, FOREVER, np.float32)
"""float32 (400,): the age at which a state would end, in frames."""
NEXT = np.full(NUM_ACTIONS, A.WAIT, np.int16)
"""int16 (400,): the state that follows when it ends by itself (or when its hitstun does)."""
ABILITIES = np.zeros(NUM_ACTIONS, np.uint8)
"""uint8 (400,): bits of `Can`."""
INTERRUPT_ABILITIES = np.zeros(NUM_ACTIONS, np.uint8)
"""uint8 (400,): bits of `Can` gained once `state_age` reaches `INTERRUPTIBLE_AT`."""
INTERRUPTIBLE_AT = np.full(NUM_ACTIONS, FOREVER, np.float32)
TRAITS = np.zeros(NUM_ACTIONS, np.uint16)
"""uint16 (400,): bits of `Is`."""
FIRST_AGE = np.zeros(NUM_ACTIONS, np.float32)
ANIMATION = np.full(NUM_ACTIONS, -1, np.int64).astype(np.uint32)
"""uint32 (400,): `animation_index`; 0xFFFFFFFF = none."""
GRAVITY_SHARE = np.ones(NUM_ACTIONS, np.float32)
"""float32 (400,): share of the fighter's gravity that works in this state."""
ACTIVE_FROM = np.full(NUM_ACTIONS, FOREVER, np.float32)
ACTIVE_TO = np.full(NUM_ACTIONS, -1.0, np.float32)
DODGE_FROM = np.full(NUM_ACTIONS, FOREVER, np.float32)
DODGE_TO = np.full(NUM_ACTIONS, -1.0, np.float32)
"""float32 (400,): last age with `hurtbox_state` 2 (intangible)."""
LANDING_LAG = np.zeros(NUM_ACTIONS, np.float32)
ATTACK_INDEX = np.full(NUM_ACTIONS, -1, np.int16)
"""int16 (400,): row of `ATTACKS`, -1 = not an attack."""

for _action, (_frames, _next, _can, _is, _first, _animation) in _STATES.items():
    ENDS_AT[_action], NEXT[_action], ABILITIES[_action] = _frames + _first, _next, _can
    TRAITS[_action], FIRST_AGE[_action], ANIMATION[_action] = _is, _first, _animation % 2**32
for _index, _row in enumerate(ATTACKS):
    _aerial = A.AIR_NEUTRAL <= _row.action <= A.AIR_DOWN
    ENDS_AT[_row.action] = _row.frames + 1
    NEXT[_row.action] = A.FALL if _aerial else A.WAIT
    INTERRUPTIBLE_AT[_row.action] = _row.interruptible
    INTERRUPT_ABILITIES[_row.action] = Can.AIR_MOVE if _aerial else _MOBILE & ~Can.STEER
    TRAITS[_row.action] = Is.ATTACK | (Is.DRIFT | Is.AERIAL_ATTACK if _aerial else Is.EDGE_STOP)
    FIRST_AGE[_row.action] = 1
    ANIMATION[_row.action] = _ATTACK_ANIMATION[_row.action]
    ACTIVE_FROM[_row.action], ACTIVE_TO[_row.action] = _row.active
    ATTACK_INDEX[_row.action] = _index
    if _aerial:
        LANDING_LAG[_row.action] = ENDS_AT[_row.action + 5] = _row.landing
for _action, _from, _to in (
    (A.SPOT_DODGE, 2, 15), (A.ROLL_FORWARD, 4, 19), (A.ROLL_BACK, 4, 19), (A.AIR_DODGE, 4, 29),
    (A.CLIFF_CATCH, 1, 7), (A.CLIFF_WAIT, 0, 30), (A.CLIFF_CLIMB, 1, 30), (A.PASSIVE, 0, 20),
    (A.DOWN_STAND, 0, 22),
):  # fmt: skip
    DODGE_FROM[_action], DODGE_TO[_action] = _from, _to
GRAVITY_SHARE[A.AIR_DODGE] = 0.0
GRAVITY_SHARE[A.UP_SPECIAL] = 0.6


def attack_column(field: str) -> np.ndarray:
    """One column of `ATTACKS` as float32 (rows,), in the units of `Attack`."""
    return np.array([getattr(row, field) for row in ATTACKS], np.float32)
