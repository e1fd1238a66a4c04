"""Imagined frames beside the true ones, of many starts at once.

Shape legend: S = starts, T = imagined frames, P = players (2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from datasets.loading.frames import GameIndex
from datasets.runtime.errors import UserError
from wm.model.dynamics.clocks import HISTORY
from wm.model.dynamics.imagination import Imagination, controller_columns
from wm.model.encoding import Frames
from wm.model.precision import autocast
from wm.rollout.starts import Starts, read_frames

BATCH_STARTS = {"cpu": 64, "cuda": 4_096}
"""Dreams at once, by type of device. The recurrent state of a medium network takes 1 MB for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dreams:
    """Some dreams, on the CPU."""

    starts: Starts
    context: Frames
    """What was observed."""
    truth: Frames
    """The frames that followed in the game."""
    imagined: Frames
    """What the model made of their controllers."""
    predicts_hitstun: bool
    """Whether the model predicts hitstun; in a dream of another one it falls to 0 and never begins."""


def dream(
    imagination: Imagination, index: GameIndex, starts: Starts, device: torch.device, precision: str = "fp32"
) -> Iterator[Dreams]:
    """Dream from all starts, in order, in batches.

    Args:
        precision: bf16 autocast casts all weights in every frame, so float32 is faster on a CPU.
    Raises:
        UserError: the model predicts numbers that are not finite, or a compiled step cannot be compiled.
    """
    imagination.model.to(device).eval()
    num_before = max(starts.num_context, HISTORY)
    for part in _batches(starts, BATCH_STARTS[device.type]):
        frames = read_frames(index, part, device, num_before)
        first_seen = num_before - starts.num_context
        earlier, context = frames.slice(0, first_seen), frames.slice(first_seen, num_before)
        truth = frames.slice(num_before, frames.num_frames)
        with torch.inference_mode(), autocast(device, precision):
            imagined = _imagined(imagination, earlier, context, truth)
        if not bool(imagined.floats.isfinite().all()):
            bad = np.flatnonzero(~imagined.floats.isfinite().flatten(1).all(1).cpu().numpy())
            raise UserError(
                f"the model predicts numbers that are not finite, in {len(bad)} of {len(part)} dreams; "
                "its weights have diverged: use an earlier checkpoint"
            )
        yield Dreams(
            starts=part,
            context=to_cpu(context),
            truth=to_cpu(truth),
            imagined=to_cpu(imagined),
            predicts_hitstun=imagination.model.fields.hitstun,
        )


def _batches(starts: Starts, largest: int) -> Iterator[Starts]:
    """Parts of equal size but for the last one: a compiled step is for one size."""
    size = math.ceil(len(starts) / max(1, math.ceil(len(starts) / largest)))
    for first in range(0, len(starts), max(1, size)):
        yield starts.part(first, first + size)


def _imagined(imagination: Imagination, earlier: Frames, context: Frames, truth: Frames) -> Frames:
    observed = imagination.observe(None, context, earlier)
    if not imagination.is_compiled:
        return imagination.imagine(observed, controller_columns(truth))[0]
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    try:
        return imagination.imagine(observed, controller_columns(truth))[0]
    except TorchDynamoException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the step of a dream cannot be compiled ({reason}); leave --compile out") from error


def to_cpu(frames: Frames) -> Frames:
    """The same frames in host memory."""
    return Frames(floats=frames.floats.cpu(), codes=frames.codes.cpu(), game=frames.game.cpu())
