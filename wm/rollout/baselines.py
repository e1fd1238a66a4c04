"""Dreams without a model.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from datasets.loading.frames import FLOAT_COLUMNS
from wm.model.dynamics.imagination import controller_columns
from wm.model.dynamics.next_frame import NUM_CONTROLLER_COLUMNS
from wm.model.encoding import Frames, positions
from wm.model.heads import displacement_prior


def stand_still(context: Frames, truth: Frames) -> Frames:
    """The last true frame, again and again."""
    last = context.last
    floats = last.floats.expand(-1, truth.num_frames, -1, -1).clone()
    codes = last.codes.expand(-1, truth.num_frames, -1, -1)[..., :-NUM_CONTROLLER_COLUMNS]
    return replace(last, floats=floats, codes=torch.cat([codes, controller_columns(truth)], dim=-1))


def keep_velocity(context: Frames, truth: Frames) -> Frames:
    """Both players go on with their last velocity (their last displacement in games without), in the same action."""
    frames = stand_still(context, truth)
    first = max(0, context.num_frames - 2)
    last = context.slice(first, context.num_frames)
    displacement = displacement_prior(last)[:, -1:]
    steps = torch.arange(1, truth.num_frames + 1, device=displacement.device)[None, :, None, None]
    place = positions(last)[:, -1:] + displacement * steps
    for axis, name in enumerate(("x", "y")):
        frames.floats[..., FLOAT_COLUMNS.index(name)] = place[..., axis]
    return frames


BASELINES: dict[str, Callable[[Frames, Frames], Frames]] = {
    "stand still": stand_still,
    "keep velocity": keep_velocity,
}
"""Name -> function of the observed and the true frames."""
