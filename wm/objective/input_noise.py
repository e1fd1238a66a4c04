"""Noise on the input frames of a sequence, of the kind and size of the model's own errors.

The targets stay the true frames, and differences are measured from the noisy input, so that each step leads back to the
truth (GNS, Sanchez-Gonzalez et al. 2020, arXiv 2002.09405). The noise begins at a random frame and goes on to the end:
that of a number is the sum of its last `walk_frames` random steps.

Shape legend: B = batch, T = frames, P = players (2), C = columns, V = values of a category.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.loading.frames import CODE_COLUMNS
from wm.config.rollout_config import NoiseConfig
from wm.model.dynamics.deaths import NUM_SCRIPTED
from wm.model.encoding import Frames, category
from wm.objective.counter_random import key_of, normal, uniform
from wm.objective.own_errors import NOISY_COLUMNS, NOISY_FIELDS, OwnErrors

NORMAL_OVER_MEAN = math.sqrt(math.pi / 2)
"""Standard deviation of a normal distribution over its mean absolute value."""
MIN_CONFUSIONS = 1.0
"""Counts of a true value below which it is not replaced."""


def add_noise(
    frames: Frames, config: NoiseConfig, errors: OwnErrors, key: int, example_B: Tensor
) -> tuple[Frames, Tensor]:
    """Noise on some examples.

    Args:
        frames: T input frames, and the last target, which stays as it is.
        key: of the random numbers of this update.
        example_B: int64, number of each example in the global batch.
    Returns:
        The frames, and the first noisy one of each example: int64 (B,), T if there is none.
    """
    num_inputs = frames.num_frames - 1
    is_noisy = uniform(key_of(key, "noisy"), [example_B]) < config.share
    begin = 1 + (uniform(key_of(key, "begin"), [example_B]) * (num_inputs - 1)).long()
    begin = torch.where(is_noisy, begin, num_inputs)
    frame = torch.arange(frames.num_frames, device=begin.device)
    may_change = (frame >= begin[:, None]) & (frame < num_inputs)
    may_change = may_change[..., None] & (frames.code_column("action") >= NUM_SCRIPTED)  # rules decide the others
    floats = frames.floats.clone()
    floats[..., list(NOISY_COLUMNS)] += _walk(frames, config, errors, key, example_B, begin) * may_change[..., None]
    codes = frames.codes
    if config.confusion > 0:
        codes = _confused(frames, config, errors, key, example_B, may_change)
    return Frames(floats=floats, codes=codes, game=frames.game), begin


def _walk(
    frames: Frames, config: NoiseConfig, errors: OwnErrors, key: int, example_B: Tensor, begin_B: Tensor
) -> Tensor:
    """Random walks from their first frame on: float32 (B, T, P, len(NOISY_COLUMNS)), raw units."""
    device = begin_B.device
    frame = torch.arange(frames.num_frames, device=device)
    player = torch.arange(frames.floats.shape[2], device=device)
    field = torch.arange(len(NOISY_COLUMNS), device=device)
    indices = [example_B[:, None, None, None], frame[:, None, None], player[:, None], field]
    sizes = errors.mean_errors * (NORMAL_OVER_MEAN * config.scale)
    steps = normal(key_of(key, "steps"), indices) * sizes
    steps = steps * (frame >= begin_B[:, None])[..., None, None]
    total = steps.cumsum(1)
    forgotten = F.pad(total, (0, 0, 0, 0, config.walk_frames, 0))[:, : frames.num_frames]
    has_velocity = frames.present("velocity")[:, None, None, None]
    is_position = torch.tensor([name in ("x", "y") for name in NOISY_FIELDS], device=device)
    return (total - forgotten) * torch.where(is_position, 1.0, has_velocity)


def _confused(
    frames: Frames, config: NoiseConfig, errors: OwnErrors, key: int, example_B: Tensor, may_change_BTP: Tensor
) -> Tensor:
    """The codes with some categories replaced: int16 (B, T, P, C)."""
    device = example_B.device
    frame = torch.arange(frames.num_frames, device=device)
    player = torch.arange(frames.floats.shape[2], device=device)
    indices = [example_B[:, None, None], frame[:, None], player]
    codes = frames.codes.clone()
    for name, table_VV in errors.confusions.items():
        cumulative_VV = table_VV.cumsum(-1)
        truth = category(frames, name)
        counts = cumulative_VV[:, -1][truth]
        drawn = uniform(key_of(key, "which", name), indices) * counts
        chosen = (cumulative_VV[truth] <= drawn[..., None]).sum(-1).clamp(max=len(table_VV) - 1)
        replace = may_change_BTP & (counts >= MIN_CONFUSIONS)
        replace = replace & (uniform(key_of(key, "whether", name), indices) < config.confusion)
        if name == "action":
            replace = replace & (chosen >= NUM_SCRIPTED)
        if name == "hurtbox":
            replace = replace & (frames.present("hurtbox")[:, None, None] > 0)
        code = chosen - 1 if name == "ground" else chosen  # the category of no ground is 0
        column = CODE_COLUMNS.index(name)
        codes[..., column] = torch.where(replace, code.to(codes.dtype), codes[..., column])
    return codes
