"""Baselines without a model, evaluated on the same frames as the models."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from datasets.loading.frames import GameIndex
from datasets.loading.targets import Targets
from wm.evaluation.evaluator import WINDOW_BATCH_FRAMES, records_of, target_windows
from wm.evaluation.metrics import EvalRecords, concatenate
from wm.model.encoding import category, positions
from wm.model.heads import displacement_prior

Baseline = Literal["repeat last frame", "last displacement", "last velocities"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
"""All keep the last action. The displacement is zero, the last one, or follows the last velocities."""


def evaluate_baseline(name: Baseline, index: GameIndex, targets: Targets) -> EvalRecords:
    """Evaluate a baseline. In games without velocities, `last velocities` uses the last displacement."""
    parts = []
    for games, frames in target_windows(index, targets, 2, WINDOW_BATCH_FRAMES, torch.device("cpu")):
        previous, last, target = (frames.slice(i, i + 1) for i in range(3))
        if name == "repeat last frame":
            displacement = torch.zeros_like(positions(last))
        elif name == "last displacement":
            displacement = positions(last) - positions(previous)
        else:
            displacement = displacement_prior(last, positions(previous))
        error = (displacement - (positions(target) - positions(last))).abs().mean(-1)
        parts.append(records_of(games, last, target, category(last, "action"), error, {}, {}))
    return concatenate(parts)
