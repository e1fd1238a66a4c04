"""Which state a fighter is in next: what ends by itself, and what the controller starts.

Shape legend: F = fighters of a batch (see state.py), n = the few of them that something happens to. Dense work is
kept to masks; whatever is rare runs on the n indices only. `benchmarks/synth.py` guards the speed.
"""

import numpy as np

from datasets.synth import moves
from datasets.synth.controllers import Button, Pads
from datasets.synth.moves import Action, Can, Is
from datasets.synth.state import World

TILT, FLICK = 0.2875, 0.79
"""Stick deflection that counts as tilted, and as fully pushed when dashing."""
PUSH = 0.66
"""Stick deflection that counts as pushed up or down, and of the C-stick."""
FLICK_FRAMES = 2
"""A push this many frames after leaving the dead zone is a flick (dash, tap jump, fast fall)."""
SHIELD_PRESS = 0.3
"""Trigger travel that raises the shield."""
RUN_STICK = 0.62


def choose_actions(world: World, pads: Pads, active: np.ndarray, stun_over: np.ndarray) -> None:
    """Moves every fighter's action state and age on by one frame.

    Args:
        pads: this frame's controllers.
        active: bool (F,), not in hitlag; the others are left alone.
        stun_over: bool (F,), hitstun or shield stun ended in this frame.
    """
    next_age = world.age + world.rate
    ends_at = moves.ENDS_AT[world.action]
    np.copyto(ends_at, world.tuning["jump_squat"], where=world.action == Action.KNEE_BEND)
    ended = active & ((next_age >= ends_at) | stun_over)
    current = world.action.copy()
    _end(world, pads, current, ended.nonzero()[0])

    can = moves.ABILITIES[current]
    late = (active & ~ended & (next_age >= moves.INTERRUPTIBLE_AT[current])).nonzero()[0]
    can[late] |= moves.INTERRUPT_ABILITIES[current[late]]
    can[~active] = 0
    chosen, forced = current.copy(), ended
    _steer(world, pads, can, current, chosen)
    _guard(world, pads, can, chosen)
    _dash(world, pads, can, current, chosen, forced)
    _hold_shield(pads, can, chosen)
    _ground_attack(world, pads, can, current, chosen, forced)
    jump = pads.jump_pressed
    chosen[jump & ((can & Can.JUMP) != 0)] = Action.KNEE_BEND
    _air(world, pads, can, chosen, forced)
    _wake(pads, active & (current == world.action), chosen)

    entered = (forced | (chosen != world.action)).nonzero()[0]
    world.age = np.where(active, next_age, world.age)
    came_from = world.action[entered]
    world.set_action(entered, chosen[entered])
    _turn_around(world, pads, entered)
    _leave_ground(world, pads, entered, came_from)


def _end(world: World, pads: Pads, current: np.ndarray, who: np.ndarray) -> None:
    """Replaces, for the fighters `who`, the state that ended by the one that follows."""
    old = current[who]
    new = moves.NEXT[old]
    forward = pads.stick_x[who] * world.facing[who]
    new[(old == Action.DASH) & (forward < RUN_STICK)] = Action.WAIT
    new[(old == Action.KNEE_BEND) & (forward < -TILT)] = Action.JUMP_B
    climbed = who[old == Action.CLIFF_CLIMB]
    world.airborne[climbed] = False
    world.surface[climbed] = 0
    world.y[climbed] = 0.0
    world.speed_x[climbed] = 0.0
    world.speed_y[climbed] = 0.0
    new[(new == Action.WAIT) & world.airborne[who]] = Action.FALL
    dead = (moves.TRAITS[old] & Is.STATIC != 0) & (old <= Action.DEAD_UP)
    new[dead & (world.stocks[who] == 0)] = Action.DEAD_DOWN
    _revive(world, who[dead & (world.stocks[who] > 0)])
    current[who] = new


def _revive(world: World, who: np.ndarray) -> None:
    world.percent[who] = 0.0
    world.shield[who] = 60.0
    world.x[who] = np.where(who % 2 == 0, -20.0, 20.0)
    world.y[who] = 115.0
    world.facing[who] = np.where(who % 2 == 0, 1.0, -1.0)
    world.last_hit_by[who] = 6
    world.last_attack[who] = 0
    world.standing[who] = False
    world.jumps_left[who] = world.tuning["jumps"][who] - 1


def _steer(world: World, pads: Pads, can: np.ndarray, current: np.ndarray, chosen: np.ndarray) -> None:
    """Standing, walking, turning, crouching."""
    who = (can & (Can.STEER | Can.RISE)).nonzero()[0]
    stick, low = pads.stick_x[who], pads.stick_y[who] <= -PUSH
    forward = stick * world.facing[who]
    speed = np.abs(forward)
    walk = np.where(speed < 0.5, Action.WALK_SLOW, np.where(speed < 0.75, Action.WALK_MIDDLE, Action.WALK_FAST))
    new = np.where(speed < TILT, Action.WAIT, np.where(forward > 0, walk, Action.TURN))
    platform = (world.surface[who] > 0) & (pads.tilt_frames_y[who] <= FLICK_FRAMES)
    new = np.where(low, np.where(platform, Action.PLATFORM_DROP, Action.SQUAT), new)
    rising = (can[who] & Can.RISE) != 0
    new = np.where(rising, np.where(low & ~platform, Action.SQUAT_WAIT, Action.SQUAT_RISE), new)
    chosen[who] = np.where(rising & low & platform, Action.PLATFORM_DROP, new)
    run = ((current == Action.RUN) & (can != 0)).nonzero()[0]
    forward = pads.stick_x[run] * world.facing[run]
    chosen[run] = np.where(
        forward >= RUN_STICK, Action.RUN, np.where(forward <= -RUN_STICK, Action.TURN_RUN, Action.RUN_BRAKE)
    )


def _guard(world: World, pads: Pads, can: np.ndarray, chosen: np.ndarray) -> None:
    who = (can & Can.GUARD_OPTION).nonzero()[0]
    new = chosen[who]
    new[~pads.shield_held[who] & (new == Action.GUARD)] = Action.GUARD_OFF
    side = (np.abs(pads.stick_x[who]) >= FLICK) & (pads.tilt_frames_x[who] <= FLICK_FRAMES)
    ahead = pads.stick_x[who] * world.facing[who] > 0
    new = np.where(side, np.where(ahead, Action.ROLL_FORWARD, Action.ROLL_BACK), new)
    down = (pads.stick_y[who] <= -PUSH) & (pads.tilt_frames_y[who] <= FLICK_FRAMES)
    chosen[who] = np.where(down, Action.SPOT_DODGE, new)


def _dash(
    world: World, pads: Pads, can: np.ndarray, current: np.ndarray, chosen: np.ndarray, forced: np.ndarray
) -> None:
    pushed = (np.abs(pads.stick_x) >= FLICK) & (pads.tilt_frames_x <= FLICK_FRAMES)
    who = (pushed & ((can & Can.DASH) != 0)).nonzero()[0]
    who = who[(current[who] != Action.DASH) | (pads.stick_x[who] * world.facing[who] < 0)]
    chosen[who] = Action.DASH
    forced[who] = True


def _hold_shield(pads: Pads, can: np.ndarray, chosen: np.ndarray) -> None:
    chosen[pads.shield_held & ((can & Can.SHIELD) != 0)] = Action.GUARD_ON


def _ground_attack(
    world: World, pads: Pads, can: np.ndarray, current: np.ndarray, chosen: np.ndarray, forced: np.ndarray
) -> None:
    who = (pads.attack_pressed & ((can & Can.GROUND_ATTACK) != 0)).nonzero()[0]
    if len(who) == 0:
        return
    stick_x, stick_y, by_c = pads.stick_x[who], pads.stick_y[who], pads.c_pushed[who]
    x = np.where(by_c, pads.c_x[who], stick_x)
    y = np.where(by_c, pads.c_y[who], stick_y)
    flick_x = (np.abs(stick_x) >= FLICK) & (pads.tilt_frames_x[who] <= FLICK_FRAMES)
    flick_y = (np.abs(stick_y) >= PUSH) & (pads.tilt_frames_y[who] <= FLICK_FRAMES)
    vertical = np.abs(y) > np.abs(x)
    smash = by_c | np.where(vertical, flick_y, flick_x)
    side = np.where(smash, Action.SIDE_SMASH, Action.SIDE_TILT)
    up = np.where(smash, Action.UP_SMASH, Action.UP_TILT)
    down = np.where(smash, Action.DOWN_SMASH, Action.DOWN_TILT)
    new = np.where(vertical, np.where(y > 0, up, down), side)
    new[(np.abs(x) < TILT) & (np.abs(y) < TILT)] = Action.JAB
    running = (moves.TRAITS[current[who]] & Is.DASH) != 0
    new[running & ~by_c] = Action.DASH_ATTACK
    new[(pads.pressed[who] & Button.Z) != 0] = Action.CATCH
    sideways = ((new == Action.SIDE_SMASH) | (new == Action.SIDE_TILT)) & (np.abs(x) >= TILT)
    world.facing[who] = np.where(sideways, np.sign(x), world.facing[who])
    chosen[who] = new
    forced[who] = True


def _air(world: World, pads: Pads, can: np.ndarray, chosen: np.ndarray, forced: np.ndarray) -> None:
    """Aerial attacks, air dodge, up special and double jump; the later win over the earlier."""
    free = (can & Can.AIR_MOVE) != 0
    who = (free & pads.attack_pressed).nonzero()[0]
    by_c = pads.c_pushed[who]
    x = np.where(by_c, pads.c_x[who], pads.stick_x[who])
    y = np.where(by_c, pads.c_y[who], pads.stick_y[who])
    vertical = np.abs(y) > np.abs(x)
    side = np.where(x * world.facing[who] > 0, Action.AIR_FORWARD, Action.AIR_BACK)
    new = np.where(vertical, np.where(y > 0, Action.AIR_UP, Action.AIR_DOWN), side)
    new[(np.abs(x) < TILT) & (np.abs(y) < TILT)] = Action.AIR_NEUTRAL
    chosen[who] = new
    special = free & ((pads.pressed & Button.B) != 0) & (pads.stick_y >= 0.5)
    dodge = free & ((pads.pressed & (Button.L | Button.R)) != 0)
    jump = free & pads.jump_pressed & (world.jumps_left > 0)
    chosen[dodge] = Action.AIR_DODGE
    chosen[special] = Action.UP_SPECIAL
    backward = pads.stick_x * world.facing < -TILT
    chosen[jump] = Action.JUMP_AERIAL_F
    chosen[jump & backward] = Action.JUMP_AERIAL_B
    forced[who] = True
    forced |= dodge | special | jump


def _wake(pads: Pads, settled: np.ndarray, chosen: np.ndarray) -> None:
    """States that wait for any input: lying down, the ledge, the revival platform."""
    who = (
        settled & ((chosen == Action.REBIRTH_WAIT) | (chosen == Action.DOWN_WAIT) | (chosen == Action.CLIFF_WAIT))
    ).nonzero()[0]
    if len(who) == 0:
        return
    new = chosen[who]
    x, y = pads.stick_x[who], pads.stick_y[who]
    moved = (np.abs(x) >= PUSH) | (np.abs(y) >= PUSH)
    pressed = pads.pressed[who] != 0
    new[(new == Action.DOWN_WAIT) & (moved | pressed)] = Action.DOWN_STAND
    new[(new == Action.REBIRTH_WAIT) & (moved | pressed)] = Action.FALL
    ledge = chosen[who] == Action.CLIFF_WAIT
    new[ledge & (y <= -PUSH)] = Action.FALL
    new[ledge & (y > -PUSH) & moved] = Action.CLIFF_CLIMB
    new[ledge & pads.jump_pressed[who]] = Action.JUMP_AERIAL_F
    chosen[who] = new


def _turn_around(world: World, pads: Pads, entered: np.ndarray) -> None:
    new = world.action[entered]
    turning = entered[(new == Action.TURN) | (new == Action.TURN_RUN)]
    world.facing[turning] = -world.facing[turning]
    dashing = entered[(new == Action.DASH)]
    world.facing[dashing] = np.sign(pads.stick_x[dashing])


def _leave_ground(world: World, pads: Pads, entered: np.ndarray, came_from: np.ndarray) -> None:
    """Whoever enters a state of the air from the ground leaves it; the ledge gives its jumps back."""
    new = world.action[entered]
    up = entered[(new == Action.JUMP_F) | (new == Action.JUMP_B) | (new == Action.PLATFORM_DROP)]
    up = up[~world.airborne[up]]
    world.airborne[up] = True
    world.jumps_left[up] = world.tuning["jumps"][up] - 1
    jumped = entered[((new == Action.JUMP_AERIAL_F) | (new == Action.JUMP_AERIAL_B))]
    world.jumps_left[jumped] -= 1
    falling = (new == Action.FALL) | (new == Action.FALL_AERIAL) | ((moves.TRAITS[new] & Is.AERIAL_ATTACK) != 0)
    world.fast_fall[entered[~falling]] = False
    revived = entered[(came_from == Action.REBIRTH_WAIT)]
    world.invulnerable[revived] = 120
