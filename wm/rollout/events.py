"""What happens in a dream's true frames, and whether its imagined frames could be of a real game.

Shape legend: S = starts, T = frames, P = players (2).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, GameIndex, read_games
from wm.model.dynamics.deaths import LAST_DEAD, REBIRTH, REBIRTH_WAIT
from wm.model.dynamics.stage_rules import blast_zone_table
from wm.model.encoding import Frames

EVENTS = ("death and respawn", "ledge", "hit", "landing", "none")
"""Kinds of dreams; a dream is of the first that happens to either player."""
LEDGE = (252, 263)
"""First and last action on a ledge."""
CHECKS = ("stocks", "percent", "position", "action")
FIRST_SPECIAL = 341
"""Actions from this one on mean something else for each character."""
NUM_ACTIONS, NUM_CHARACTERS = 400, 64


def event_of(context: Frames, truth: Frames) -> np.ndarray:
    """Index into EVENTS of each start: int64 (S,)."""
    last = context.slice(context.num_frames - 1, context.num_frames)
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


def known_actions(index: GameIndex, games: Iterable[int]) -> np.ndarray:
    """Which actions each character performs in some games: bool (characters, actions).

    Below FIRST_SPECIAL an action exists for all characters if it does for one.
    """
    seen = np.zeros((NUM_CHARACTERS, NUM_ACTIONS), bool)
    for game in games:
        codes = read_games(index, [game]).codes
        action, character = (codes[..., CODE_COLUMNS.index(name)] for name in ("action", "character"))
        seen[character.clip(0, NUM_CHARACTERS - 1), action.clip(0, NUM_ACTIONS - 1)] = True
    seen[:, :FIRST_SPECIAL] |= seen[:, :FIRST_SPECIAL].any(0)
    return seen


def first_impossible(last: Frames, imagined: Frames, actions: np.ndarray) -> dict[str, np.ndarray]:
    """Check -> number of imagined frames before the first that no game could show: int64 (S,), T if there is none.

    Stocks fall only in a death, one at a time; percent falls only by a respawn; nobody lives beyond a blast zone
    (but the upper one); actions exist for their character.

    Args:
        last: the last true frame, T = 1.
        actions: see `known_actions`.
    """
    action = imagined.code_column("action")
    lost = -torch.cat([last.code_column("stocks"), imagined.code_column("stocks")], dim=1).diff(dim=1)
    percent = _with_last(last, imagined, "percent")
    x, y = imagined.float_column("x"), imagined.float_column("y")
    zone = blast_zone_table()[imagined.game[:, 0].long().clamp(0, 32)][:, None, None]
    left, right, low, _ = zone.unbind(-1)
    is_alive = action > LAST_DEAD
    character = imagined.code_column("character").clamp(0, NUM_CHARACTERS - 1)
    wrong = {
        "stocks": (lost < 0) | (lost > 1) | ((lost == 1) & is_alive) | (imagined.code_column("stocks") < 0),
        "percent": ((percent.diff(dim=1) < 0) & (action != REBIRTH)) | (percent[:, 1:] > 999),
        "position": is_alive & ((x < left) | (x > right) | (y < low)),
        "action": ~torch.from_numpy(actions)[character, action.clamp(0, NUM_ACTIONS - 1)],
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
