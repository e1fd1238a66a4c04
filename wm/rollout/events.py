"""What happens in a dream's true frames, and whether its imagined frames could be of a real game.

Shape legend: S = starts, T = frames, P = players (2).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datasets.schema.melee_ids import NESS
from wm.model.dynamics.deaths import LAST_DEAD, REBIRTH, REBIRTH_WAIT
from wm.model.dynamics.stage_rules import blast_zone_table
from wm.model.encoding import Frames
from wm.model.stages import stage_rows

EVENTS = ("death and respawn", "ledge", "hit", "landing", "none")
"""Kinds of dreams; a dream is of the first that happens to either player."""
LEDGE = (252, 263)
"""First and last action on a ledge."""
CHECKS = ("stocks", "percent", "position", "action")
LAST_ACTIONS = (
    350, 375, 363, 386, 543, 363, 361, 364, 376, 370, 366, 366, 366, 358, 368, 372, 360, 358, 372, 358, 361, 350, 375,
    366, 380, 363, 372,
)  # fmt: skip
"""Internal character id -> its last action. All have those up to 340; the further ones are a character's own. From the
sizes of the tables `ft*_Init_MotionStateTable` in the game's decompilation (doldecomp/melee, symbols of GALE01)."""


def event_of(context: Frames, truth: Frames) -> np.ndarray:
    """Index into EVENTS of each start: int64 (S,)."""
    last = context.last
    action, percent = truth.code_column("action"), _with_last(last, truth, "percent")
    airborne = torch.cat([last.code_column("airborne"), truth.code_column("airborne")], dim=1)
    happens = [
        action <= REBIRTH_WAIT,
        (action >= LEDGE[0]) & (action <= LEDGE[1]),
        percent.diff(dim=1) > 0,
        airborne.diff(dim=1) < 0,
        torch.ones_like(action, dtype=torch.bool),
    ]
    return torch.stack([kind.flatten(1).any(1) for kind in happens], dim=-1).int().argmax(-1).numpy()


def first_impossible(last: Frames, imagined: Frames) -> dict[str, np.ndarray]:
    """Check -> number of imagined frames before the first that no game could show: int64 (S,), T if there is none.

    Stocks fall only in a death, one at a time; percent falls only by a respawn, or by a magnet (NESS); nobody lives
    beyond a blast zone (but the upper one); actions exist for their character.

    Args:
        last: the last true frame, T = 1.
    """
    action = imagined.code_column("action")
    lost = -torch.cat([last.code_column("stocks"), imagined.code_column("stocks")], dim=1).diff(dim=1)
    percent = _with_last(last, imagined, "percent")
    x, y = imagined.float_column("x"), imagined.float_column("y")
    zone = stage_rows(imagined, blast_zone_table())
    left, right, low, _ = zone.unbind(-1)
    is_alive = action > LAST_DEAD
    action_before = torch.cat([last.code_column("action"), action[:, :-1]], dim=1)
    character = imagined.code_column("character")
    may_fall = (action == REBIRTH) | (action_before <= LAST_DEAD) | (character == NESS)
    last_action = torch.tensor(LAST_ACTIONS)[character.clamp(0, len(LAST_ACTIONS) - 1)]
    wrong = {
        "stocks": (lost < 0) | (lost > 1) | ((lost == 1) & is_alive) | (imagined.code_column("stocks") < 0),
        "percent": ((percent.diff(dim=1) < 0) & ~may_fall) | (percent[:, 1:] > 999),
        "position": is_alive & ((x < left) | (x > right) | (y < low)),
        "action": action > last_action,
    }
    assert tuple(wrong) == CHECKS
    return {name: _frames_before(is_wrong.any(-1)) for name, is_wrong in wrong.items()}


def _with_last(last: Frames, frames: Frames, name: str) -> Tensor:
    """A continuous column with the frame before: (S, 1 + T, P)."""
    return torch.cat([last.float_column(name), frames.float_column(name)], dim=1)


def _frames_before(wrong_ST: Tensor) -> np.ndarray:
    """Number of frames before the first one that is true: int64 (S,)."""
    first = wrong_ST.int().argmax(1)
    return torch.where(wrong_ST.any(1), first, wrong_ST.shape[1]).numpy()
