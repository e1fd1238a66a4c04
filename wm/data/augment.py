"""What the game does not care about: which player is first, and (nearly) which side is left.

Shape legend: B = batch, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

import numpy as np
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS
from wm.config.run_config import ObjectiveConfig
from wm.data.batches import Share
from wm.model.encoding import STAGE_EMBEDDING, Frames

MIRRORED_FLOATS = ("x", "self_air_x", "self_ground_x", "attack_x")
MIRRORED_CODES = ("facing", "main_x", "c_x")


def augment(share: Share, objective: ObjectiveConfig, seed: tuple[int, ...]) -> Frames:
    """A share's frames, about half of the examples with players exchanged, about half mirrored, as the config says.

    Args:
        seed: names the batch: whoever gets an example, in a resumed run too, draws the same for it.
    """
    frames = share.frames
    if not (objective.swap_players or objective.mirror):
        return frames
    whole = np.random.default_rng(seed).random((2, share.num_examples)) < 0.5
    drawn = torch.from_numpy(whole[:, share.first : share.first + frames.floats.shape[0]])
    if frames.floats.is_cuda:
        drawn = drawn.pin_memory().to(frames.floats.device, non_blocking=True)
    if objective.swap_players:
        frames = _where(drawn[0], frames, swapped(frames))
    if objective.mirror:
        frames = _where(drawn[1], frames, mirrored(frames))
    return frames


def swapped(frames: Frames) -> Frames:
    """Players 0 and 1 exchanged."""
    return Frames(floats=frames.floats.flip(2), codes=frames.codes.flip(2), game=frames.game)


def mirrored(frames: Frames) -> Frames:
    """Left and right exchanged, on a stage of its own.

    A stage's two sides have different ground numbers and its scenery is not quite even, so that a mirrored stage is
    another stage: number n becomes 32 - n, and no tournament stage becomes another one.
    """
    floats = frames.floats * _signs(FLOAT_COLUMNS, MIRRORED_FLOATS, frames.floats)
    codes = frames.codes * _signs(CODE_COLUMNS, MIRRORED_CODES, frames.codes)
    last = STAGE_EMBEDDING[0] - 1
    stage = last - frames.game[:, :1].clamp(0, last)
    return Frames(floats=floats, codes=codes, game=torch.cat([stage, frames.game[:, 1:]], dim=1))


def _signs(columns: tuple[str, ...], negated: tuple[str, ...], like: torch.Tensor) -> torch.Tensor:
    """(C,): -1 for what changes its sign, made on the device."""
    signs = torch.ones(len(columns), dtype=like.dtype, device=like.device)
    for name in negated:
        signs[columns.index(name)].neg_()
    return signs


def _where(chosen_B: torch.Tensor, frames: Frames, other: Frames) -> Frames:
    """`other` where chosen, else `frames`."""
    wide = chosen_B[:, None, None, None]
    return Frames(
        floats=torch.where(wide, other.floats, frames.floats),
        codes=torch.where(wide, other.codes, frames.codes),
        game=torch.where(chosen_B[:, None], other.game, frames.game),
    )
