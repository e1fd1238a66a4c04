"""The action clock of every frame of a sequence at once; `observed_clock` has that of the last one.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.dynamics.next_frame import ActionClock
from wm.model.encoding import Frames
from wm.model.state_fields import in_hitlag


def clock_of_each(frames: Frames, ages: Tensor) -> ActionClock:
    """Speed and frames of each frame's action, (B, T, P). An action that began before the first frame began with it.

    Args:
        ages: see `wm.model.animation.age_table`.
    """
    action, age = frames.code_column("action"), frames.float_column("state_age")
    steps = age[:, 1:] - age[:, :-1]
    same = action[:, 1:] == action[:, :-1]
    moved = same & ~in_hitlag(frames)[:, :-1] & (steps >= 0)
    usual = ages[:, 1][action.clamp(0, len(ages) - 1)]
    known = torch.cat([usual[:, :1], torch.where(moved, steps, usual[:, 1:])], dim=1)
    speed = known.gather(1, _last_true(moved | ~same))
    frame = torch.arange(action.shape[1], device=action.device)[:, None]
    return ActionClock(speed=speed, frames=frame - _last_true(~same))


def _last_true(is_event: Tensor) -> Tensor:
    """Number of the newest frame with an event, the first frame being one: int64 (B, T, P) of bool (B, T - 1, P)."""
    frame = torch.arange(1, is_event.shape[1] + 1, device=is_event.device)[:, None]
    first = torch.zeros_like(is_event[:, :1], dtype=torch.long)
    return torch.cat([first, torch.where(is_event, frame, 0)], dim=1).cummax(1).values
