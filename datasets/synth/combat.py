"""Hits, shields, knockback and deaths.

Knockback, hitlag, hitstun and shield stun follow Melee's published formulas (SmashWiki, Knockback, Hitlag, Shieldstun).
Shape legend: see state.py.
"""

import numpy as np

from datasets.synth import actions
from datasets.synth.actions import ATTACKS, Action, Trait, attack_column
from datasets.synth.controllers import Controllers
from datasets.synth.state import FULL_SHIELD, World

KNOCKBACK_SPEED = 0.03
"""Launch speed per unit of knockback, in game units per frame."""
HITSTUN_FACTOR = 0.4
"""Frames of hitstun per unit of knockback."""
TUMBLE_KNOCKBACK = 80.0
"""Minimum knockback for a tumble."""
MAX_INFLUENCE = 0.314
"""Maximum change of the launch angle by directional influence, in radians (18 degrees)."""
SHIELD_DRAIN, SHIELD_RECOVERY = 0.28, 0.07
"""Shield health lost per frame while it is up, and regained per frame otherwise."""
BODY = (7.0, 6.0)
"""Height of the hurtbox centre above the feet, and its radius, in game units."""

_DAMAGE, _BASE, _GROWTH = attack_column("damage"), attack_column("base"), attack_column("growth")
_REACH, _HEIGHT, _RADIUS = attack_column("reach"), attack_column("height"), attack_column("radius")
_ID = attack_column("attack_id").astype(np.uint8)
_ANGLE = np.radians([row.angle for row in ATTACKS])
# A back aerial launches backwards: the direction has the sign of the reach.
_COS = (np.cos(_ANGLE) * np.sign([row.reach for row in ATTACKS])).astype(np.float32)
_SIN = np.sin(_ANGLE).astype(np.float32)


def tick_timers(world: World, pads: Controllers) -> tuple[np.ndarray, np.ndarray]:
    """Advance hitlag, hitstun and invulnerability by one frame.

    Returns:
        bool (F,), not in hitlag in this frame; and bool (F,), hitstun or shield stun ends in this frame.
    """
    leaving = world.hitlag == 1
    active = world.hitlag <= 1
    world.hitlag = np.maximum(world.hitlag - 1, 0)
    stunned = world.hitstun > 0
    world.hitstun = np.maximum(world.hitstun - active, 0)
    world.l_cancel[active] = 0
    world.invulnerable = np.maximum(world.invulnerable - 1, 0)
    _directional_influence(world, pads, (leaving & stunned & (world.action != Action.GUARD_SET_OFF)).nonzero()[0])
    return active, stunned & (world.hitstun == 0)


def _directional_influence(world: World, pads: Controllers, idx: np.ndarray) -> None:
    """The stick component perpendicular to the launch rotates it, by up to `MAX_INFLUENCE`."""
    if len(idx) == 0:
        return
    x, y = world.knockback_x[idx], world.knockback_y[idx]
    length = np.maximum(np.sqrt(x * x + y * y), 1e-6)
    across = (x * pads.stick_y[idx] - y * pads.stick_x[idx]) / length
    turn = np.float32(MAX_INFLUENCE) * across * np.abs(across)
    # Polynomials: the SIMD and scalar paths of np.cos differ in the last bit, so results would depend on batch size.
    square = turn * turn
    cos, sin = 1 - square / 2 + square * square / 24, turn - turn * square / 6
    world.knockback_x[idx] = np.where(world.airborne[idx], x * cos - y * sin, x)
    world.knockback_y[idx] = np.where(world.airborne[idx], x * sin + y * cos, y)


def update_shields(world: World, active: np.ndarray) -> None:
    """Shrink and break shields that are up; let the others recover."""
    raised = (world.action == Action.GUARD) | (world.action == Action.GUARD_ON)
    world.shield = np.where(
        raised & active,
        np.maximum(world.shield - SHIELD_DRAIN, 0),
        np.where((actions.TRAITS[world.action] & Trait.SHIELD) != 0, world.shield,
                 np.minimum(world.shield + SHIELD_RECOVERY, FULL_SHIELD)),
    )  # fmt: skip
    _break_shield(world, (raised & (world.shield <= 0)).nonzero()[0])


def _break_shield(world: World, idx: np.ndarray) -> None:
    if len(idx) == 0:
        return
    world.set_action(idx, Action.SHIELD_BREAK_FLY)
    world.airborne[idx] = True
    world.speed_x[idx] = 0.0
    world.speed_y[idx] = 2.5
    world.shield[idx] = FULL_SHIELD / 2
    world.hitstun[idx] = 0.0


def update_hurtboxes(world: World) -> None:
    """Set `hurtbox_state` (SPEC.md, Post-Frame Update): 1 invulnerable, 2 intangible."""
    dodging = (world.age >= actions.INTANGIBLE_FROM[world.action]) & (world.age <= actions.INTANGIBLE_TO[world.action])
    protected = (world.invulnerable > 0) | (world.action == Action.REBIRTH_WAIT)
    world.hurtbox = np.where(dodging, 2, protected.view(np.uint8)).astype(np.uint8)


def resolve_hits(world: World, active: np.ndarray) -> None:
    """Apply the hits of this frame. Both fighters can hit each other at once."""
    striking = (world.age >= actions.ACTIVE_FROM[world.action]) & (world.age <= actions.ACTIVE_TO[world.action])
    by = (striking & active & ~world.connected).nonzero()[0]
    on = by ^ 1
    open_ = (world.hurtbox[on] == 0) & ((actions.TRAITS[world.action[on]] & Trait.UNTOUCHABLE) == 0)
    by, on = by[open_], on[open_]
    attack = actions.ATTACK_INDEX[world.action[by]]
    scale = world.attributes["reach"][by]
    x = world.x[by] + world.facing[by] * _REACH[attack] * scale - world.x[on]
    y = world.y[by] + _HEIGHT[attack] * scale - world.y[on] - BODY[0]
    near = x * x + y * y < np.square(_RADIUS[attack] * scale + BODY[1])
    by, on, attack = by[near], on[near], attack[near]
    if len(by) == 0:
        return
    world.connected[by] = True
    hitlag = np.floor(_DAMAGE[attack] / 3 + 3)
    shielded = (actions.TRAITS[world.action[on]] & Trait.SHIELD) != 0
    facing = world.facing[by]
    _hit_shield(world, by[shielded], on[shielded], attack[shielded], facing[shielded])
    _hit_body(world, by[~shielded], on[~shielded], attack[~shielded], facing[~shielded])
    np.maximum.at(world.hitlag, by, hitlag)
    np.maximum.at(world.hitlag, on, hitlag)


def _hit_shield(world: World, by: np.ndarray, on: np.ndarray, attack: np.ndarray, facing: np.ndarray) -> None:
    if len(by) == 0:
        return
    damage = _DAMAGE[attack]
    world.shield[on] = np.maximum(world.shield[on] - 0.7 * damage, 0)
    world.set_action(on, Action.GUARD_SET_OFF)
    world.hitstun[on] = np.floor((damage + 4.45) / 2.235)
    world.knockback_x[on] = facing * np.sign(_REACH[attack]) * (0.6 + 0.05 * damage)
    broken = on[world.shield[on] <= 0]
    _break_shield(world, broken)
    world.knockback_x[broken] = 0.0


def _hit_body(world: World, by: np.ndarray, on: np.ndarray, attack: np.ndarray, facing: np.ndarray) -> None:
    damage = _DAMAGE[attack]
    stunned = world.hitstun[on] > 0
    world.percent[on] = np.minimum(world.percent[on] + damage, 999)
    percent, weight = world.percent[on], world.attributes["weight"][on]
    weighted = (percent / 10 + percent * damage / 20) * (280 / (weight + 100)) + 18
    knockback = weighted * (_GROWTH[attack] / 100) + _BASE[attack]
    tumble = knockback >= TUMBLE_KNOCKBACK
    grounded = ~world.airborne[on]
    rising = _SIN[attack] * np.where(grounded, np.sign(_SIN[attack]), 1)
    launched = ~grounded | tumble | (rising > 0.7)
    world.knockback_x[on] = facing * _COS[attack] * knockback * KNOCKBACK_SPEED
    world.knockback_y[on] = np.where(launched, rising * knockback * KNOCKBACK_SPEED, 0)
    world.set_action(on, _damage_state(knockback, launched, attack).astype(np.int16))
    world.hitstun[on] = np.maximum(np.floor(knockback * HITSTUN_FACTOR), 1)
    left = on[launched & grounded]
    world.airborne[left] = True
    world.jumps_left[left] = world.attributes["jumps"][left] - 1
    world.speed_x[on] = 0.0
    world.speed_y[on] = 0.0
    world.fast_fall[on] = False
    world.facing[on] = -facing
    world.combo[by] = np.where(stunned, np.minimum(world.combo[by], 254) + 1, 1)
    world.last_attack[by] = _ID[attack]
    world.last_hit_by[on] = world.port[by]
    world.instance_hit_by[on] = world.instance[by]


def _damage_state(knockback: np.ndarray, launched: np.ndarray, attack: np.ndarray) -> np.ndarray:
    """Melee's damage state: three strengths on the ground, three in the air, and flight by the angle."""
    strength = (knockback >= 32).astype(np.int16) + (knockback >= 56)
    state = np.where(launched, Action.DAMAGE_AIR, Action.DAMAGE_GROUND) + strength
    steep, low = _SIN[attack] > 0.94, _SIN[attack] < 0.55
    fly = np.where(steep, Action.FLY_TOP, np.where(low, Action.FLY_LOW, Action.FLY_NEUTRAL))
    return np.where(knockback >= TUMBLE_KNOCKBACK, fly, state)


def resolve_deaths(world: World) -> None:
    """Take a stock from fighters outside of the blast zone. The top counts only with upward knockback."""
    left, right, bottom, top = world.blast
    launched = world.knockback_y > 0
    gone = (world.x < left) | (world.x > right) | (world.y < bottom) | ((world.y > top) & launched)
    idx = (gone & ((actions.TRAITS[world.action] & Trait.UNTOUCHABLE) == 0)).nonzero()[0]
    if len(idx) == 0:
        return
    x, y = world.x[idx], world.y[idx]
    side = np.where(x < left[idx], Action.DEAD_LEFT, np.where(x > right[idx], Action.DEAD_RIGHT, Action.DEAD_UP))
    world.set_action(idx, np.where(y < bottom[idx], Action.DEAD_DOWN, side).astype(np.int16))
    world.stocks[idx] -= 1
    world.airborne[idx] = True
    for name in ("speed_x", "speed_y", "knockback_x", "knockback_y", "hitlag", "hitstun"):
        getattr(world, name)[idx] = 0.0
    world.fast_fall[idx] = False
    world.l_cancel[idx] = 0


def reset_combos(world: World) -> None:
    """Set the combo count to 0 once the opponent leaves hitstun."""
    world.combo *= (world.hitstun > 0).reshape(-1, 2)[:, ::-1].reshape(-1)
