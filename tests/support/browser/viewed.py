"""Dreams to look at without a model: true frames of a corpus, and the same moved a little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex
from wm.model.encoding import Frames
from wm.rollout.dreams import Dreams
from wm.rollout.starts import Starts, read_frames
from wm.viewer.data import ViewedDream, viewed_dream

NUM_CONTEXT, NUM_FRAMES = 60, 120
DRIFT = 0.25
"""Game units that the imagined players go to the right in each frame."""


def drifting(index: GameIndex, game: int, frame: int, num_frames: int = NUM_FRAMES) -> Dreams:
    """A dream that drifts to the right, and from its middle on stands in the first action."""
    starts = Starts(games=np.array([game]), frames=np.array([frame]), num_context=NUM_CONTEXT, num_frames=num_frames)
    frames = read_frames(index, starts, torch.device("cpu"))
    context, truth = frames.slice(0, NUM_CONTEXT), frames.slice(NUM_CONTEXT, NUM_CONTEXT + num_frames)
    floats, codes = truth.floats.clone(), truth.codes.clone()
    floats[..., FLOAT_COLUMNS.index("x")] += DRIFT * torch.arange(1, num_frames + 1)[None, :, None]
    codes[:, num_frames // 2 :, :, CODE_COLUMNS.index("action")] = 14
    imagined = replace(truth, floats=floats, codes=codes)
    return Dreams(starts=starts, context=context, truth=truth, imagined=imagined, predicts_hitstun=True)


def viewed(index: GameIndex, game: int = 0, frame: int = 400, label: str = "hit, typical") -> ViewedDream:
    """The same for a page."""
    return viewed_dream(index, drifting(index, game, frame), 0, label)


def columns_of(frames: Frames, name: str) -> np.ndarray:
    """A column as (T, P)."""
    column = frames.float_column(name) if name in FLOAT_COLUMNS else frames.code_column(name)
    return column[0].numpy()
