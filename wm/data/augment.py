"""Data augmentation by the symmetries of the game: exchanged players, and mirrored stages.

Shape legend: B = batch, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

import numpy as np
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS
from wm.config.run_config import ObjectiveConfig
from wm.data.batches import LocalBatch
from wm.model.encoding import FIRST_PORT, Frames, cached_tensor

ACTION = CODE_COLUMNS.index("action")
DEAD_LEFT, DEAD_RIGHT = 1, 2
"""The only actions that name a side of the stage; all others are relative to the direction that the player faces."""
MIRRORED_FLOATS = ("x", "self_air_x", "self_ground_x", "attack_x")
MIRRORED_CODES = ("facing", "main_x", "c_x")
FLOAT_SIGNS = tuple(-1.0 if name in MIRRORED_FLOATS else 1.0 for name in FLOAT_COLUMNS)
CODE_SIGNS = tuple(-1.0 if name in MIRRORED_CODES else 1.0 for name in CODE_COLUMNS)


def augment(batch: LocalBatch, objective: ObjectiveConfig, seed: tuple[int, ...]) -> Frames:
    """A batch's frames, with players exchanged in half of the examples and half mirrored, as configured.

    Args:
        seed: of this batch. An example is augmented the same way on any worker, and after a resume.
    """
    frames = batch.frames
    if not (objective.swap_players or objective.mirror):
        return frames
    chosen = np.random.default_rng(seed).random((2, batch.num_examples)) < 0.5
    selected = torch.from_numpy(chosen[:, batch.first : batch.first + frames.floats.shape[0]])
    if frames.floats.is_cuda:
        selected = selected.pin_memory().to(frames.floats.device, non_blocking=True)
    if objective.swap_players:
        frames = _where(selected[0], frames, swap_players(frames))
    if objective.mirror:
        frames = _where(selected[1], frames, mirror(frames))
    return frames


def swap_players(frames: Frames) -> Frames:
    """Players 0 and 1 exchanged."""
    game = torch.cat([frames.game[:, :FIRST_PORT], frames.game[:, FIRST_PORT:].flip(1)], dim=1)
    return Frames(floats=frames.floats.flip(2), codes=frames.codes.flip(2), game=game)


def mirror(frames: Frames) -> Frames:
    """Left and right exchanged. Stage id n becomes -1 - n: the two sides of a stage have different ground numbers and
    slightly different geometry."""
    floats = frames.floats * cached_tensor(FLOAT_SIGNS, frames.floats.device)
    codes = frames.codes * cached_tensor(CODE_SIGNS, frames.codes.device, frames.codes.dtype)
    action = codes[..., ACTION]
    names_side = (action == DEAD_LEFT) | (action == DEAD_RIGHT)
    codes[..., ACTION] = torch.where(names_side, DEAD_LEFT + DEAD_RIGHT - action, action)
    return Frames(floats=floats, codes=codes, game=torch.cat([-1 - frames.game[:, :1], frames.game[:, 1:]], dim=1))


def _where(selected_B: torch.Tensor, frames: Frames, other: Frames) -> Frames:
    """`other` where selected, else `frames`."""
    wide = selected_B[:, None, None, None]
    return Frames(
        floats=torch.where(wide, other.floats, frames.floats),
        codes=torch.where(wide, other.codes, frames.codes),
        game=torch.where(selected_B[:, None], other.game, frames.game),
    )
