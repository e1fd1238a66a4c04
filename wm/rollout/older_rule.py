"""The feed-back of the published evaluation that coherence is compared with ("their rule").

It feeds back numbers, binary features, the action and the jumps. State age, l_cancel, hurtbox, ground and last attack
stay what they were in the last true frame, and no rule of the game is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS
from datasets.schema.columns import VELOCITY_COLUMNS
from wm.model.dynamics.next_frame import NUM_CONTROLLER_COLUMNS, ActionClock
from wm.model.encoding import Frames
from wm.model.heads import DELTAS, DYNAMICS, VELOCITIES, Prediction, raw_values


def older_feed_back(
    last: Frames, clock: ActionClock, prediction: Prediction, controllers_BTPC: Tensor
) -> tuple[Frames, ActionClock]:
    """See `wm.model.dynamics.next_frame.FeedBack`."""
    floats = dict(zip(FLOAT_COLUMNS, last.floats.unbind(-1), strict=True))
    codes = dict(zip(CODE_COLUMNS, last.codes.long().unbind(-1), strict=True))
    for name, change in zip(DELTAS, prediction.deltas.unbind(-1), strict=True):
        floats[name] = raw_values(last, name) + change
    for name, change in zip(VELOCITIES, prediction.velocities.unbind(-1), strict=True):
        assert name in VELOCITY_COLUMNS
        floats[name] = (raw_values(last, name) + change) * last.present("velocity")[:, None, None]
    dynamics = dict(zip(DYNAMICS, prediction.dynamics.unbind(-1), strict=True))
    floats["hitlag"] = dynamics["hitlag"].clamp(min=0) * last.present("hitlag")[:, None, None]
    for name in ("stocks", "combo"):
        codes[name] = dynamics[name].round().clamp(0, 255).long()
    for name in ("action", "jumps"):
        codes[name] = prediction.categories[name].argmax(-1)
    facing, _, on_ground = (prediction.binaries > 0).unbind(-1)
    codes["facing"], codes["airborne"] = 2 * facing.long() - 1, (~on_ground).long()
    state = torch.stack([codes[name] for name in CODE_COLUMNS[:-NUM_CONTROLLER_COLUMNS]], dim=-1).to(last.codes.dtype)
    frames = Frames(
        floats=torch.stack([floats[name] for name in FLOAT_COLUMNS], dim=-1),
        codes=torch.cat([state, controllers_BTPC], dim=-1),
        game=last.game,
    )
    return frames, clock
