"""Movement: velocity, then position, then corrections by the ground, edges, walls and ledges.

As in Melee, a frame's velocity is computed first, and the position changes by exactly this velocity (self plus
knockback) unless the stage corrects it. Shape legend: see state.py.
"""

import numpy as np

from datasets.synth import actions
from datasets.synth.actions import Action, Trait
from datasets.synth.controllers import Controllers
from datasets.synth.rules import FLICK_FRAMES, PUSH
from datasets.synth.state import World

KNOCKBACK_DECAY = 0.051
"""Decrease of the knockback speed in the air, in units per frame squared (as in Melee)."""
# float32, because a bool array times a Python float is float64, which would spread through the state.
RUN_ACCELERATION = np.float32(0.12)
WALK_ACCELERATION = np.float32(0.1)
AIR_FRICTION = 0.015
AIR_DODGE_SPEED = 3.1
AIR_DODGE_DECAY = 0.9
RESPAWN_SPEED = -1.15
LEDGE_REACH = 9.0
"""Maximum distance from the edge for a ledge grab, in game units."""
CLIMB = (11.0, 17.0)
"""Height of a ledge climb, in game units, and its state age halfway: upward before it, inward after it."""
TECH_FRAMES, L_CANCEL_FRAMES = 20, 7
"""Maximum frames from a shield press to the landing for a tech, and for an L-cancel."""


def update_velocity(world: World, pads: Controllers, active: np.ndarray) -> None:
    """Update `speed_*` and `knockback_*` of the fighters that are not in hitlag (`active`, bool (F,))."""
    attributes = world.attributes
    traits = actions.TRAITS[world.action]
    walking, dashing = (traits & Trait.WALK) != 0, (traits & Trait.DASH) != 0
    drifting = (traits & Trait.DRIFT) != 0
    top = np.where(
        drifting, attributes["air_speed"], walking * attributes["walk_speed"] + dashing * attributes["run_speed"]
    )
    drift = AIR_FRICTION + np.abs(pads.stick_x) * attributes["air_acceleration"]
    push = attributes["friction"] + walking * WALK_ACCELERATION + dashing * RUN_ACCELERATION
    change = np.where(world.airborne, drift * drifting, push)
    speed_x = world.speed_x + np.clip(pads.stick_x * top - world.speed_x, -change, change)
    tapped = (pads.stick_y <= -PUSH) & (pads.tilt_frames_y <= FLICK_FRAMES)
    world.fast_fall |= active & tapped & world.airborne & (world.speed_y < 0) & drifting
    fall = np.maximum(
        world.speed_y - attributes["gravity"] * actions.GRAVITY_FACTOR[world.action], -attributes["fall_speed"]
    )
    speed_y = np.where(world.fast_fall, -attributes["fast_fall_speed"], fall)
    moving = active & ((traits & Trait.STATIC) == 0)
    world.speed_x = np.where(moving, speed_x, world.speed_x)
    world.speed_y = np.where(moving & world.airborne, speed_y, world.speed_y)
    _decay_knockback(world, (active & ((world.knockback_x != 0) | (world.knockback_y != 0))).nonzero()[0])
    _set_initial_velocity(world, pads, (active & (world.age == actions.FIRST_AGE[world.action])).nonzero()[0])
    _move_static(world, (active & ((traits & Trait.STATIC) != 0)).nonzero()[0])
    dodging = (active & (world.action == Action.AIR_DODGE) & (world.age > 1)).nonzero()[0]
    world.speed_x[dodging] *= AIR_DODGE_DECAY
    world.speed_y[dodging] *= AIR_DODGE_DECAY


def _decay_knockback(world: World, idx: np.ndarray) -> None:
    if len(idx) == 0:
        return
    x, y = world.knockback_x[idx], world.knockback_y[idx]
    loss = np.where(world.airborne[idx], np.float32(KNOCKBACK_DECAY), world.attributes["friction"][idx])
    keep = np.maximum(1 - loss / np.sqrt(x * x + y * y), 0)
    world.knockback_x[idx] = x * keep
    world.knockback_y[idx] = y * keep


def _set_initial_velocity(world: World, pads: Controllers, idx: np.ndarray) -> None:
    """Set the velocities of action states on their first frame."""
    if len(idx) == 0:
        return
    action, attributes = world.action[idx], world.attributes
    stick_x, stick_y, facing = pads.stick_x[idx], pads.stick_y[idx], world.facing[idx]
    speed_x, speed_y = world.speed_x[idx], world.speed_y[idx]
    speed_x = np.where(action == Action.DASH, facing * attributes["dash_speed"][idx], speed_x)
    speed_x = np.where(action == Action.ROLL_FORWARD, facing * 1.9, speed_x)
    speed_x = np.where(action == Action.ROLL_BACK, facing * -1.9, speed_x)
    jumping = (action == Action.JUMP_F) | (action == Action.JUMP_B)
    drift = stick_x * attributes["jump_drift"][idx]
    limit = 1.25 * attributes["air_speed"][idx]
    speed_x = np.where(jumping, np.clip(0.8 * speed_x + drift, -limit, limit), speed_x)
    hop = np.where(pads.jump_held[idx], attributes["jump_speed"][idx], attributes["short_hop_speed"][idx])
    speed_y = np.where(jumping, hop, speed_y)
    again = (action == Action.JUMP_AERIAL_F) | (action == Action.JUMP_AERIAL_B)
    speed_x = np.where(again, drift, speed_x)
    speed_y = np.where(again, 0.95 * attributes["jump_speed"][idx], speed_y)
    special = action == Action.UP_SPECIAL
    speed_x = np.where(special, 0.8 * drift, speed_x)
    speed_y = np.where(special, attributes["up_special_speed"][idx], speed_y)
    length = np.maximum(np.sqrt(stick_x * stick_x + stick_y * stick_y), 1.0)
    aimed = (np.abs(stick_x) + np.abs(stick_y)) > 0
    dodge = action == Action.AIR_DODGE
    speed_x = np.where(dodge, aimed * AIR_DODGE_SPEED * stick_x / length, speed_x)
    speed_y = np.where(dodge, aimed * AIR_DODGE_SPEED * stick_y / length, speed_y)
    world.speed_x[idx] = speed_x
    world.speed_y[idx] = np.where(action == Action.PLATFORM_DROP, -0.5, speed_y)


def _move_static(world: World, idx: np.ndarray) -> None:
    """States without physics do not move, except for the respawn platform and ledge climbs."""
    if len(idx) == 0:
        return
    action, age = world.action[idx], world.age[idx]
    climbing = action == Action.CLIFF_CLIMB
    up, halfway = CLIMB
    speed_y = np.where(action == Action.REBIRTH, RESPAWN_SPEED, 0.0)
    world.speed_y[idx] = np.where(climbing & (age <= halfway), up / halfway, speed_y)
    world.speed_x[idx] = np.where(climbing & (age > halfway), world.facing[idx] * 0.5, 0.0)
    world.knockback_x[idx] = 0.0
    world.knockback_y[idx] = 0.0


def move(world: World, pads: Controllers, active: np.ndarray) -> None:
    """Move every fighter by this frame's velocity, and apply the corrections of the stage."""
    before_x, before_y = world.x, world.y
    world.x = before_x + active * (world.speed_x + world.knockback_x)
    world.y = before_y + active * (world.speed_y + world.knockback_y)
    traits = actions.TRAITS[world.action]
    free = world.airborne & ((traits & Trait.STATIC) == 0)
    past_edge = (world.x < world.at_surface(world.left)) | (world.x > world.at_surface(world.right))
    _leave_edge(world, (past_edge & ~world.airborne).nonzero()[0], traits)
    _land_on_surfaces(world, pads, free & (world.y < before_y) & active, before_y)
    _stop_at_walls(world, (world.airborne & free & (world.y < 0)).nonzero()[0], before_x)
    hanging = ((traits & Trait.LEDGE) != 0) & free & (world.speed_y < 0) & (world.y < -3) & (world.y > -24)
    _catch_ledge(world, pads, (hanging & active & world.airborne).nonzero()[0])


def _leave_edge(world: World, idx: np.ndarray, traits: np.ndarray) -> None:
    if len(idx) == 0:
        return
    stops = (traits[idx] & Trait.EDGE_STOP) != 0
    stay, go = idx[stops], idx[~stops]
    surface = world.surface[stay]
    world.x[stay] = np.clip(world.x[stay], world.left[surface, stay], world.right[surface, stay])
    world.speed_x[stay] = 0.0
    world.knockback_x[stay] = 0.0
    world.airborne[go] = True
    world.speed_y[go] = 0.0
    world.jumps_left[go] = world.attributes["jumps"][go] - 1
    go = go[(traits[go] & Trait.DAMAGE) == 0]
    world.set_action(go, Action.FALL)


def _land_on_surfaces(world: World, pads: Controllers, falling: np.ndarray, before_y: np.ndarray) -> None:
    """Land the fighters of `falling` (bool (F,)) that crossed a surface."""
    surface, idx = ((before_y >= world.height) & (world.y <= world.height) & falling).nonzero()
    through = (pads.stick_y[idx] <= -PUSH) & (world.hitstun[idx] == 0) & (surface > 0)
    inside = (world.x[idx] >= world.left[surface, idx]) & (world.x[idx] <= world.right[surface, idx])
    landed = inside & ~through
    idx, surface = idx[landed], surface[landed]
    if len(idx) == 0:
        return
    # The highest crossed surface wins: it is assigned last, because the last assignment to an index counts.
    order = np.argsort(world.height[surface, idx], kind="stable")
    world.surface[idx[order]] = surface[order]
    idx = np.unique(idx)
    old = world.action[idx]
    traits = actions.TRAITS[old]
    world.y[idx] = world.height[world.surface[idx], idx]
    world.airborne[idx] = False
    world.standing[idx] = True
    world.fast_fall[idx] = False
    world.speed_y[idx] = 0.0
    world.knockback_y[idx] = 0.0
    world.jumps_left[idx] = world.attributes["jumps"][idx]
    new = np.where((traits & Trait.HELPLESS) != 0, Action.LANDING_FALL_SPECIAL, Action.LANDING)
    aerial = (traits & Trait.AERIAL_ATTACK) != 0
    new = np.where(aerial, old + (Action.LANDING_AIR_NEUTRAL - Action.AIR_NEUTRAL), new)
    since_press = pads.shield_press_frames[idx]
    floored = np.where(since_press <= TECH_FRAMES, Action.PASSIVE, Action.DOWN_BOUND)
    new = np.where((traits & Trait.TUMBLE) != 0, floored, new)
    new = np.where(old == Action.SHIELD_BREAK_FLY, Action.DAZED, new)
    cancelled = aerial & (since_press <= L_CANCEL_FRAMES)
    world.hitstun[idx] = 0.0
    world.set_action(idx, new.astype(np.int16))
    world.rate[idx] = np.where(cancelled, 2.0, 1.0)
    world.l_cancel[idx] = np.where(aerial, np.where(cancelled, 1, 2), 0)


def _stop_at_walls(world: World, idx: np.ndarray, before_x: np.ndarray) -> None:
    """Keep fighters out of the stage's solid body."""
    if len(idx) == 0:
        return
    left, right = world.left[0, idx], world.right[0, idx]
    inside = (world.x[idx] > left) & (world.x[idx] < right)
    idx, left, right = idx[inside], left[inside], right[inside]
    world.x[idx] = np.where(before_x[idx] < 0, left, right)
    world.speed_x[idx] = 0.0
    world.knockback_x[idx] = 0.0


def _catch_ledge(world: World, pads: Controllers, idx: np.ndarray) -> None:
    if len(idx) == 0:
        return
    edge = np.where(world.x[idx] < 0, world.left[0, idx], world.right[0, idx])
    outside = np.abs(world.x[idx]) - np.abs(edge)
    caught = (outside >= 0) & (outside < LEDGE_REACH) & (pads.stick_y[idx] > -PUSH)
    idx, edge = idx[caught], edge[caught]
    world.set_action(idx, Action.CLIFF_CATCH)
    world.facing[idx] = -np.sign(edge)
    world.x[idx] = edge + 2.0 * np.sign(edge)
    world.y[idx] = -CLIMB[0]
    world.speed_x[idx] = 0.0
    world.speed_y[idx] = 0.0
    world.knockback_x[idx] = 0.0
    world.knockback_y[idx] = 0.0
    world.fast_fall[idx] = False
    world.jumps_left[idx] = world.attributes["jumps"][idx]
