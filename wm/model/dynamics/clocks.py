"""The action clock of true frames: how fast each action advances, and since when it lasts.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.dynamics.deaths import DEAD_UP_STAR, REBIRTH, REBIRTH_WAIT, SCRIPT
from wm.model.dynamics.next_frame import ActionClock
from wm.model.encoding import Frames
from wm.model.state_fields import in_hitlag

HISTORY = SCRIPT[DEAD_UP_STAR][0]
"""Frames of the longest death, a star KO. Respawns need no history: their age is the number of their frames."""


def clock_of_each(
    frames: Frames, ages: Tensor, before: ActionClock | None = None, *, keeps_speed: bool = False
) -> ActionClock:
    """Speed and frames of each frame's action, (B, T, P).

    An action that began before the first frame began with it, but for a respawn, whose age is the number of its frames.
    The speed is that of the last frame in which the action advanced, or the usual one.

    Args:
        ages: see `wm.model.animation.age_table`.
        before: clock of the first frame, if it is known.
        keeps_speed: an action that stands still keeps its speed, for networks that predict whether it does; otherwise
            its speed is 0.
    """
    action, age = frames.code_column("action"), frames.float_column("state_age")
    steps = age[:, 1:] - age[:, :-1]
    same = action[:, 1:] == action[:, :-1]
    advances = steps > 0 if keeps_speed else steps >= 0
    moved = same & ~in_hitlag(frames)[:, :-1] & advances
    usual = ages[:, 1][action.clamp(0, len(ages) - 1)]
    first = usual[:, :1] if before is None else before.speed
    known = torch.cat([first, torch.where(moved, steps, usual[:, 1:])], dim=1)
    speed = known.gather(1, _last_true(moved | ~same))
    frame = torch.arange(action.shape[1], device=action.device)[:, None]
    began = _last_true(~same)
    count = frame - began
    if before is not None:
        count = count + torch.where(began == 0, before.frames, 0)
    is_reborn = (action == REBIRTH) | (action == REBIRTH_WAIT)
    count = torch.where(is_reborn, torch.maximum(count, age.long()), count)
    return ActionClock(speed=speed, frames=count)


def clock_of_last(
    frames: Frames, ages: Tensor, before: ActionClock | None = None, *, keeps_speed: bool = False
) -> ActionClock:
    """As `clock_of_each`, of the last frame alone: (B, 1, P)."""
    clock = clock_of_each(frames, ages, before, keeps_speed=keeps_speed)
    return ActionClock(speed=clock.speed[:, -1:], frames=clock.frames[:, -1:])


def _last_true(is_event: Tensor) -> Tensor:
    """Number of the newest frame with an event, the first frame being one: int64 (B, T, P) of bool (B, T - 1, P)."""
    frame = torch.arange(1, is_event.shape[1] + 1, device=is_event.device)[:, None]
    first = frame.new_zeros(len(is_event), 1, is_event.shape[2])
    return torch.cat([first, torch.where(is_event, frame, 0)], dim=1).cummax(1).values
