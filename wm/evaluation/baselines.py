"""Baselines without a model, evaluated on the same frames as the models."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from wm.evaluation.evaluator import records_of
from wm.evaluation.metrics import EvalRecords, concatenate
from wm.evaluation.target_frames import TargetFrames
from wm.model.encoding import category, positions
from wm.model.heads import displacement_prior

Baseline = Literal["repeat last frame", "last displacement", "last velocities"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""All keep the last action. The displacement is zero, the last one, or follows the last velocities."""
CONTEXT = 2
"""Frames that a baseline sees."""
BATCH_SIZE = 4_096


def evaluate_baseline(name: Baseline, frames: TargetFrames) -> EvalRecords:
    """Evaluate a baseline. In games without velocities, `last velocities` uses the last displacement.

    Args:
        frames: with at least CONTEXT frames before each target.
    """
    parts = []
    for games, windows in frames.windows(CONTEXT, BATCH_SIZE, frames.floats.device):
        previous, last, target = (windows.slice(i, i + 1) for i in range(CONTEXT + 1))
        if name == "repeat last frame":
            displacement = torch.zeros_like(positions(last))
        elif name == "last displacement":
            displacement = positions(last) - positions(previous)
        else:
            displacement = displacement_prior(last, positions(previous))
        error = (displacement - (positions(target) - positions(last))).abs().mean(-1)
        parts.append(records_of(games, last, target, category(last, "action"), error, {}, {}))
    return concatenate(parts)
