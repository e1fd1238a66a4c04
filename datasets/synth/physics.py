"""Where a fighter is next: velocity, then position, then the ground, the edges and the ledge.

As in Melee the velocity of a frame is settled first and the position then moves by exactly this velocity (self plus
knockback), except where the stage corrects it: landing, an edge, a wall, the ledge. Shape legend: see state.py.
"""

import numpy as np

from datasets.synth import moves
from datasets.synth.controllers import Pads
from datasets.synth.moves import Action, Is
from datasets.synth.rules import FLICK_FRAMES, PUSH
from datasets.synth.state import World

KNOCKBACK_DECAY = 0.051
"""Loss of knockback speed per frame in the air, units per frame squared (as in Melee)."""
# float32, since a bool array times a Python float would be float64 and drag the whole state along.
RUN_ACCELERATION = np.float32(0.12)
WALK_ACCELERATION = np.float32(0.1)
AIR_FRICTION = 0.015
AIR_DODGE_SPEED = 3.1
AIR_DODGE_DECAY = 0.9
REVIVAL_SPEED = -1.15
LEDGE_REACH = 9.0
"""Distance from the edge within which the ledge is caught, game units."""
CLIMB = (11.0, 17.0)
"""Height and halfway age of climbing: up until then, inwards afterwards (game units, frames)."""
TECH_FRAMES, L_CANCEL_FRAMES = 20, 7
"""A shield press this many frames before landing makes a tech or an L-cancel."""


def update_velocity(world: World, pads: Pads, active: np.ndarray) -> None:
    """Settles `speed_*` and `knockback_*` of this frame for the fighters that are not in hitlag (bool (F,))."""
    tuning = world.tuning
    traits = moves.TRAITS[world.action]
    walking, dashing = (traits & Is.WALK) != 0, (traits & Is.DASH) != 0
    drifting = (traits & Is.DRIFT) != 0
    top = np.where(drifting, tuning["air_speed"], walking * tuning["walk_speed"] + dashing * tuning["run_speed"])
    drift = AIR_FRICTION + np.abs(pads.stick_x) * tuning["air_acceleration"]
    push = tuning["friction"] + walking * WALK_ACCELERATION + dashing * RUN_ACCELERATION
    change = np.where(world.airborne, drift * drifting, push)
    speed_x = world.speed_x + np.clip(pads.stick_x * top - world.speed_x, -change, change)
    tapped = (pads.stick_y <= -PUSH) & (pads.tilt_frames_y <= FLICK_FRAMES)
    world.fast_fall |= active & tapped & world.airborne & (world.speed_y < 0) & drifting
    fall = np.maximum(world.speed_y - tuning["gravity"] * moves.GRAVITY_SHARE[world.action], -tuning["fall_speed"])
    speed_y = np.where(world.fast_fall, -tuning["fast_fall_speed"], fall)
    moving = active & ((traits & Is.STATIC) == 0)
    world.speed_x = np.where(moving, speed_x, world.speed_x)
    world.speed_y = np.where(moving & world.airborne, speed_y, world.speed_y)
    _decay_knockback(world, (active & ((world.knockback_x != 0) | (world.knockback_y != 0))).nonzero()[0])
    _scripted(world, pads, (active & (world.age == moves.FIRST_AGE[world.action])).nonzero()[0])
    _static(world, (active & ((traits & Is.STATIC) != 0)).nonzero()[0])
    dodging = (active & (world.action == Action.AIR_DODGE) & (world.age > 1)).nonzero()[0]
    world.speed_x[dodging] *= AIR_DODGE_DECAY
    world.speed_y[dodging] *= AIR_DODGE_DECAY


def _decay_knockback(world: World, who: np.ndarray) -> None:
    if len(who) == 0:
        return
    x, y = world.knockback_x[who], world.knockback_y[who]
    loss = np.where(world.airborne[who], np.float32(KNOCKBACK_DECAY), world.tuning["friction"][who])
    keep = np.maximum(1 - loss / np.sqrt(x * x + y * y), 0)
    world.knockback_x[who] = x * keep
    world.knockback_y[who] = y * keep


def _scripted(world: World, pads: Pads, who: np.ndarray) -> None:
    """Velocities that a state sets on its first frame."""
    if len(who) == 0:
        return
    action, tuning = world.action[who], world.tuning
    stick_x, stick_y, facing = pads.stick_x[who], pads.stick_y[who], world.facing[who]
    speed_x, speed_y = world.speed_x[who], world.speed_y[who]
    speed_x = np.where(action == Action.DASH, facing * tuning["dash_speed"][who], speed_x)
    speed_x = np.where(action == Action.ROLL_FORWARD, facing * 1.9, speed_x)
    speed_x = np.where(action == Action.ROLL_BACK, facing * -1.9, speed_x)
    jumping = (action == Action.JUMP_F) | (action == Action.JUMP_B)
    drift = stick_x * tuning["jump_drift"][who]
    limit = 1.25 * tuning["air_speed"][who]
    speed_x = np.where(jumping, np.clip(0.8 * speed_x + drift, -limit, limit), speed_x)
    hop = np.where(pads.jump_held[who], tuning["jump_speed"][who], tuning["short_hop_speed"][who])
    speed_y = np.where(jumping, hop, speed_y)
    again = (action == Action.JUMP_AERIAL_F) | (action == Action.JUMP_AERIAL_B)
    speed_x = np.where(again, drift, speed_x)
    speed_y = np.where(again, 0.95 * tuning["jump_speed"][who], speed_y)
    special = action == Action.UP_SPECIAL
    speed_x = np.where(special, 0.8 * drift, speed_x)
    speed_y = np.where(special, tuning["up_special_speed"][who], speed_y)
    length = np.maximum(np.sqrt(stick_x * stick_x + stick_y * stick_y), 1.0)
    aimed = (np.abs(stick_x) + np.abs(stick_y)) > 0
    dodge = action == Action.AIR_DODGE
    speed_x = np.where(dodge, aimed * AIR_DODGE_SPEED * stick_x / length, speed_x)
    speed_y = np.where(dodge, aimed * AIR_DODGE_SPEED * stick_y / length, speed_y)
    world.speed_x[who] = speed_x
    world.speed_y[who] = np.where(action == Action.PLATFORM_DROP, -0.5, speed_y)


def _static(world: World, who: np.ndarray) -> None:
    """States without physics stand still, but for the revival platform and climbing the ledge."""
    if len(who) == 0:
        return
    action, age = world.action[who], world.age[who]
    climbing = action == Action.CLIFF_CLIMB
    up, halfway = CLIMB
    speed_y = np.where(action == Action.REBIRTH, REVIVAL_SPEED, 0.0)
    world.speed_y[who] = np.where(climbing & (age <= halfway), up / halfway, speed_y)
    world.speed_x[who] = np.where(climbing & (age > halfway), world.facing[who] * 0.5, 0.0)
    world.knockback_x[who] = 0.0
    world.knockback_y[who] = 0.0


def move(world: World, pads: Pads, active: np.ndarray) -> None:
    """Moves everyone by this frame's velocity and settles what the stage makes of it."""
    before_x, before_y = world.x, world.y
    world.x = before_x + active * (world.speed_x + world.knockback_x)
    world.y = before_y + active * (world.speed_y + world.knockback_y)
    traits = moves.TRAITS[world.action]
    free = world.airborne & ((traits & Is.STATIC) == 0)
    past_edge = (world.x < world.at_surface(world.left)) | (world.x > world.at_surface(world.right))
    _leave_edge(world, (past_edge & ~world.airborne).nonzero()[0], traits)
    _land(world, pads, free & (world.y < before_y) & active, before_y)
    _walls(world, (world.airborne & free & (world.y < 0)).nonzero()[0], before_x)
    hanging = ((traits & Is.LEDGE) != 0) & free & (world.speed_y < 0) & (world.y < -3) & (world.y > -24)
    _catch_ledge(world, pads, (hanging & active & world.airborne).nonzero()[0])


def _leave_edge(world: World, who: np.ndarray, traits: np.ndarray) -> None:
    if len(who) == 0:
        return
    stops = (traits[who] & Is.EDGE_STOP) != 0
    stay, go = who[stops], who[~stops]
    surface = world.surface[stay]
    world.x[stay] = np.clip(world.x[stay], world.left[surface, stay], world.right[surface, stay])
    world.speed_x[stay] = 0.0
    world.knockback_x[stay] = 0.0
    world.airborne[go] = True
    world.speed_y[go] = 0.0
    world.jumps_left[go] = world.tuning["jumps"][go] - 1
    go = go[(traits[go] & Is.DAMAGE) == 0]
    world.set_action(go, Action.FALL)


def _land(world: World, pads: Pads, falling: np.ndarray, before_y: np.ndarray) -> None:
    """Puts those of the falling (bool (F,)) that crossed a surface on it."""
    surface, who = ((before_y >= world.height) & (world.y <= world.height) & falling).nonzero()
    through = (pads.stick_y[who] <= -PUSH) & (world.hitstun[who] == 0) & (surface > 0)
    inside = (world.x[who] >= world.left[surface, who]) & (world.x[who] <= world.right[surface, who])
    landed = inside & ~through
    who, surface = who[landed], surface[landed]
    if len(who) == 0:
        return
    # Of several surfaces the highest is met first; the last assignment to an index wins, so it comes last.
    order = np.argsort(world.height[surface, who], kind="stable")
    world.surface[who[order]] = surface[order]
    who = np.unique(who)
    old = world.action[who]
    traits = moves.TRAITS[old]
    world.y[who] = world.height[world.surface[who], who]
    world.airborne[who] = False
    world.standing[who] = True
    world.fast_fall[who] = False
    world.speed_y[who] = 0.0
    world.knockback_y[who] = 0.0
    world.jumps_left[who] = world.tuning["jumps"][who]
    new = np.where((traits & Is.HELPLESS) != 0, Action.LANDING_FALL_SPECIAL, Action.LANDING)
    aerial = (traits & Is.AERIAL_ATTACK) != 0
    new = np.where(aerial, old + (Action.LANDING_AIR_NEUTRAL - Action.AIR_NEUTRAL), new)
    since_press = pads.shield_press_frames[who]
    floored = np.where(since_press <= TECH_FRAMES, Action.PASSIVE, Action.DOWN_BOUND)
    new = np.where((traits & Is.TUMBLE) != 0, floored, new)
    new = np.where(old == Action.SHIELD_BREAK_FLY, Action.DAZED, new)
    cancelled = aerial & (since_press <= L_CANCEL_FRAMES)
    world.hitstun[who] = 0.0
    world.set_action(who, new.astype(np.int16))
    world.rate[who] = np.where(cancelled, 2.0, 1.0)
    world.l_cancel[who] = np.where(aerial, np.where(cancelled, 1, 2), 0)


def _walls(world: World, who: np.ndarray, before_x: np.ndarray) -> None:
    """Nobody enters the stage from below or from the side."""
    if len(who) == 0:
        return
    left, right = world.left[0, who], world.right[0, who]
    inside = (world.x[who] > left) & (world.x[who] < right)
    who, left, right = who[inside], left[inside], right[inside]
    world.x[who] = np.where(before_x[who] < 0, left, right)
    world.speed_x[who] = 0.0
    world.knockback_x[who] = 0.0


def _catch_ledge(world: World, pads: Pads, who: np.ndarray) -> None:
    if len(who) == 0:
        return
    edge = np.where(world.x[who] < 0, world.left[0, who], world.right[0, who])
    outside = np.abs(world.x[who]) - np.abs(edge)
    caught = (outside >= 0) & (outside < LEDGE_REACH) & (pads.stick_y[who] > -PUSH)
    who, edge = who[caught], edge[caught]
    world.set_action(who, Action.CLIFF_CATCH)
    world.facing[who] = -np.sign(edge)
    world.x[who] = edge + 2.0 * np.sign(edge)
    world.y[who] = -CLIMB[0]
    world.speed_x[who] = 0.0
    world.speed_y[who] = 0.0
    world.knockback_x[who] = 0.0
    world.knockback_y[who] = 0.0
    world.fast_fall[who] = False
    world.jumps_left[who] = world.tuning["jumps"][who]
