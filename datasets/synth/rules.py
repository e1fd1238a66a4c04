"""The next action state of each fighter: states that end by themselves, and states that the controllers start.

Shape legend: F = fighters of a batch (see state.py), n = some of them. Dense work uses masks; everything rare works on
n indices only. `benchmarks/inputs/synth.py` measures the speed.
"""

import numpy as np

from datasets.synth import actions
from datasets.synth.actions import Ability, Action, Trait
from datasets.synth.controllers import Button, Controllers
from datasets.synth.state import World

TILT, FLICK = 0.2875, 0.79
"""Minimum stick deflection for a tilt, and for a dash."""
PUSH = 0.66
"""Minimum vertical stick deflection, and C-stick deflection, for an action."""
FLICK_FRAMES = 2
"""Maximum frames from the dead zone to the push for a flick (dash, tap jump, fast fall)."""
RUN_STICK = 0.62


def choose_actions(world: World, pads: Controllers, active: np.ndarray, stun_over: np.ndarray) -> None:
    """Advance the action state and state age of every fighter by one frame.

    Args:
        pads: this frame's controllers.
        active: bool (F,), not in hitlag; other fighters do not change.
        stun_over: bool (F,), hitstun or shield stun ends in this frame.
    """
    next_age = world.age + world.rate
    ends_at = actions.ENDS_AT[world.action]
    np.copyto(ends_at, world.attributes["jump_squat"], where=world.action == Action.KNEE_BEND)
    ended = active & ((next_age >= ends_at) | stun_over)
    current = world.action.copy()
    _end_states(world, pads, current, ended.nonzero()[0])

    can = actions.ABILITIES[current]
    late = (active & ~ended & (next_age >= actions.INTERRUPTIBLE_AT[current])).nonzero()[0]
    can[late] |= actions.INTERRUPT_ABILITIES[current[late]]
    can[~active] = 0
    chosen, forced = current.copy(), ended
    _move_on_ground(world, pads, can, current, chosen)
    _guard(world, pads, can, chosen)
    _dash(world, pads, can, current, chosen, forced)
    _hold_shield(pads, can, chosen)
    _ground_attack(world, pads, can, current, chosen, forced)
    jump = pads.jump_pressed
    chosen[jump & ((can & Ability.JUMP) != 0)] = Action.KNEE_BEND
    _air(world, pads, can, chosen, forced)
    _leave_waiting_states(pads, active & (current == world.action), chosen)

    entered = (forced | (chosen != world.action)).nonzero()[0]
    world.age = np.where(active, next_age, world.age)
    came_from = world.action[entered]
    world.set_action(entered, chosen[entered])
    _turn_around(world, pads, entered)
    _leave_ground(world, pads, entered, came_from)


def _end_states(world: World, pads: Controllers, current: np.ndarray, idx: np.ndarray) -> None:
    """Replace the ended states of the fighters `idx` by their successors."""
    old = current[idx]
    new = actions.NEXT[old]
    forward = pads.stick_x[idx] * world.facing[idx]
    new[(old == Action.DASH) & (forward < RUN_STICK)] = Action.WAIT
    new[(old == Action.KNEE_BEND) & (forward < -TILT)] = Action.JUMP_B
    climbed = idx[old == Action.CLIFF_CLIMB]
    world.airborne[climbed] = False
    world.surface[climbed] = 0
    world.y[climbed] = 0.0
    world.speed_x[climbed] = 0.0
    world.speed_y[climbed] = 0.0
    new[(new == Action.WAIT) & world.airborne[idx]] = Action.FALL
    dead = (actions.TRAITS[old] & Trait.STATIC != 0) & (old <= Action.DEAD_UP)
    new[dead & (world.stocks[idx] == 0)] = Action.DEAD_DOWN
    _respawn(world, idx[dead & (world.stocks[idx] > 0)])
    current[idx] = new


def _respawn(world: World, idx: np.ndarray) -> None:
    world.percent[idx] = 0.0
    world.shield[idx] = 60.0
    world.x[idx] = np.where(idx % 2 == 0, -20.0, 20.0)
    world.y[idx] = 115.0
    world.facing[idx] = np.where(idx % 2 == 0, 1.0, -1.0)
    world.last_hit_by[idx] = 6
    world.last_attack[idx] = 0
    world.standing[idx] = False
    world.jumps_left[idx] = world.attributes["jumps"][idx] - 1


def _move_on_ground(world: World, pads: Controllers, can: np.ndarray, current: np.ndarray, chosen: np.ndarray) -> None:
    """Standing, walking, turning, crouching."""
    idx = (can & (Ability.STEER | Ability.RISE)).nonzero()[0]
    stick, low = pads.stick_x[idx], pads.stick_y[idx] <= -PUSH
    forward = stick * world.facing[idx]
    speed = np.abs(forward)
    walk = np.where(speed < 0.5, Action.WALK_SLOW, np.where(speed < 0.75, Action.WALK_MIDDLE, Action.WALK_FAST))
    new = np.where(speed < TILT, Action.WAIT, np.where(forward > 0, walk, Action.TURN))
    platform = (world.surface[idx] > 0) & (pads.tilt_frames_y[idx] <= FLICK_FRAMES)
    new = np.where(low, np.where(platform, Action.PLATFORM_DROP, Action.SQUAT), new)
    rising = (can[idx] & Ability.RISE) != 0
    new = np.where(rising, np.where(low & ~platform, Action.SQUAT_WAIT, Action.SQUAT_RISE), new)
    chosen[idx] = np.where(rising & low & platform, Action.PLATFORM_DROP, new)
    run = ((current == Action.RUN) & (can != 0)).nonzero()[0]
    forward = pads.stick_x[run] * world.facing[run]
    chosen[run] = np.where(
        forward >= RUN_STICK, Action.RUN, np.where(forward <= -RUN_STICK, Action.TURN_RUN, Action.RUN_BRAKE)
    )


def _guard(world: World, pads: Controllers, can: np.ndarray, chosen: np.ndarray) -> None:
    idx = (can & Ability.GUARD_OPTION).nonzero()[0]
    new = chosen[idx]
    new[~pads.shield_held[idx] & (new == Action.GUARD)] = Action.GUARD_OFF
    side = (np.abs(pads.stick_x[idx]) >= FLICK) & (pads.tilt_frames_x[idx] <= FLICK_FRAMES)
    ahead = pads.stick_x[idx] * world.facing[idx] > 0
    new = np.where(side, np.where(ahead, Action.ROLL_FORWARD, Action.ROLL_BACK), new)
    down = (pads.stick_y[idx] <= -PUSH) & (pads.tilt_frames_y[idx] <= FLICK_FRAMES)
    chosen[idx] = np.where(down, Action.SPOT_DODGE, new)


def _dash(
    world: World, pads: Controllers, can: np.ndarray, current: np.ndarray, chosen: np.ndarray, forced: np.ndarray
) -> None:
    pushed = (np.abs(pads.stick_x) >= FLICK) & (pads.tilt_frames_x <= FLICK_FRAMES)
    idx = (pushed & ((can & Ability.DASH) != 0)).nonzero()[0]
    idx = idx[(current[idx] != Action.DASH) | (pads.stick_x[idx] * world.facing[idx] < 0)]
    chosen[idx] = Action.DASH
    forced[idx] = True


def _hold_shield(pads: Controllers, can: np.ndarray, chosen: np.ndarray) -> None:
    chosen[pads.shield_held & ((can & Ability.SHIELD) != 0)] = Action.GUARD_ON


def _ground_attack(
    world: World, pads: Controllers, can: np.ndarray, current: np.ndarray, chosen: np.ndarray, forced: np.ndarray
) -> None:
    idx = (pads.attack_pressed & ((can & Ability.GROUND_ATTACK) != 0)).nonzero()[0]
    if len(idx) == 0:
        return
    stick_x, stick_y, by_c = pads.stick_x[idx], pads.stick_y[idx], pads.c_pushed[idx]
    x = np.where(by_c, pads.c_x[idx], stick_x)
    y = np.where(by_c, pads.c_y[idx], stick_y)
    flick_x = (np.abs(stick_x) >= FLICK) & (pads.tilt_frames_x[idx] <= FLICK_FRAMES)
    flick_y = (np.abs(stick_y) >= PUSH) & (pads.tilt_frames_y[idx] <= FLICK_FRAMES)
    vertical = np.abs(y) > np.abs(x)
    smash = by_c | np.where(vertical, flick_y, flick_x)
    side = np.where(smash, Action.SIDE_SMASH, Action.SIDE_TILT)
    up = np.where(smash, Action.UP_SMASH, Action.UP_TILT)
    down = np.where(smash, Action.DOWN_SMASH, Action.DOWN_TILT)
    new = np.where(vertical, np.where(y > 0, up, down), side)
    new[(np.abs(x) < TILT) & (np.abs(y) < TILT)] = Action.JAB
    running = (actions.TRAITS[current[idx]] & Trait.DASH) != 0
    new[running & ~by_c] = Action.DASH_ATTACK
    new[(pads.pressed[idx] & Button.Z) != 0] = Action.CATCH
    sideways = ((new == Action.SIDE_SMASH) | (new == Action.SIDE_TILT)) & (np.abs(x) >= TILT)
    world.facing[idx] = np.where(sideways, np.sign(x), world.facing[idx])
    chosen[idx] = new
    forced[idx] = True


def _air(world: World, pads: Controllers, can: np.ndarray, chosen: np.ndarray, forced: np.ndarray) -> None:
    """Aerial attacks, air dodge, up special and double jump, in ascending priority."""
    free = (can & Ability.AIR_MOVE) != 0
    idx = (free & pads.attack_pressed).nonzero()[0]
    by_c = pads.c_pushed[idx]
    x = np.where(by_c, pads.c_x[idx], pads.stick_x[idx])
    y = np.where(by_c, pads.c_y[idx], pads.stick_y[idx])
    vertical = np.abs(y) > np.abs(x)
    side = np.where(x * world.facing[idx] > 0, Action.AIR_FORWARD, Action.AIR_BACK)
    new = np.where(vertical, np.where(y > 0, Action.AIR_UP, Action.AIR_DOWN), side)
    new[(np.abs(x) < TILT) & (np.abs(y) < TILT)] = Action.AIR_NEUTRAL
    chosen[idx] = new
    special = free & ((pads.pressed & Button.B) != 0) & (pads.stick_y >= 0.5)
    dodge = free & ((pads.pressed & (Button.L | Button.R)) != 0)
    jump = free & pads.jump_pressed & (world.jumps_left > 0)
    chosen[dodge] = Action.AIR_DODGE
    chosen[special] = Action.UP_SPECIAL
    backward = pads.stick_x * world.facing < -TILT
    chosen[jump] = Action.JUMP_AERIAL_F
    chosen[jump & backward] = Action.JUMP_AERIAL_B
    forced[idx] = True
    forced |= dodge | special | jump


def _leave_waiting_states(pads: Controllers, settled: np.ndarray, chosen: np.ndarray) -> None:
    """Leave the states that wait for an input: lying down, the ledge, the respawn platform."""
    idx = (
        settled & ((chosen == Action.REBIRTH_WAIT) | (chosen == Action.DOWN_WAIT) | (chosen == Action.CLIFF_WAIT))
    ).nonzero()[0]
    if len(idx) == 0:
        return
    new = chosen[idx]
    x, y = pads.stick_x[idx], pads.stick_y[idx]
    moved = (np.abs(x) >= PUSH) | (np.abs(y) >= PUSH)
    pressed = pads.pressed[idx] != 0
    new[(new == Action.DOWN_WAIT) & (moved | pressed)] = Action.DOWN_STAND
    new[(new == Action.REBIRTH_WAIT) & (moved | pressed)] = Action.FALL
    ledge = chosen[idx] == Action.CLIFF_WAIT
    new[ledge & (y <= -PUSH)] = Action.FALL
    new[ledge & (y > -PUSH) & moved] = Action.CLIFF_CLIMB
    new[ledge & pads.jump_pressed[idx]] = Action.JUMP_AERIAL_F
    chosen[idx] = new


def _turn_around(world: World, pads: Controllers, entered: np.ndarray) -> None:
    new = world.action[entered]
    turning = entered[(new == Action.TURN) | (new == Action.TURN_RUN)]
    world.facing[turning] = -world.facing[turning]
    dashing = entered[(new == Action.DASH)]
    world.facing[dashing] = np.sign(pads.stick_x[dashing])


def _leave_ground(world: World, pads: Controllers, entered: np.ndarray, came_from: np.ndarray) -> None:
    """Make fighters airborne that enter an aerial state, and update their jumps."""
    new = world.action[entered]
    up = entered[(new == Action.JUMP_F) | (new == Action.JUMP_B) | (new == Action.PLATFORM_DROP)]
    up = up[~world.airborne[up]]
    world.airborne[up] = True
    world.jumps_left[up] = world.attributes["jumps"][up] - 1
    jumped = entered[((new == Action.JUMP_AERIAL_F) | (new == Action.JUMP_AERIAL_B))]
    world.jumps_left[jumped] -= 1
    falling = (new == Action.FALL) | (new == Action.FALL_AERIAL) | ((actions.TRAITS[new] & Trait.AERIAL_ATTACK) != 0)
    world.fast_fall[entered[~falling]] = False
    respawned = entered[(came_from == Action.REBIRTH_WAIT)]
    world.invulnerable[respawned] = 120
