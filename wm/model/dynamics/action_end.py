"""When an action ends in a dream: at the median of the time that the predictions tell.

In each frame a network says how probable it is that the action goes on. Where it is unsure of the moment, going on is
the most probable in every single frame, and an action whose end is certain within a few frames would never end. So it
ends when it is more probable that it has ended than that it has gone on through all imagined frames: the product of the
probabilities falls below a half.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wm.model.dynamics.sampling import Sampling

LOG_HALF = math.log(0.5)
LEAST_LOG_PROBABILITY = -20.0
"""Stands for less, and for an action that may not go on."""


def next_action(sampling: Sampling, logits: Tensor, before: Tensor, log_survival: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the next action.

    Args:
        logits: (B, T, P, actions); -inf for those that may not be chosen.
        before: int64 (B, T, P), the action of the frame before.
        log_survival: (B, T, P), see `ActionClock`.
    Returns:
        The action, int64 (B, T, P), and the log-survival of `before` in the next frame. A sampled action ends when its
        sample says so, and survives for certain.
    """
    chosen = sampling.category("action", logits)
    if sampling.temperatures.get("action", 0.0):
        return chosen, torch.zeros_like(log_survival)
    goes_on = logits.log_softmax(-1).gather(-1, before[..., None])[..., 0].clamp(min=LEAST_LOG_PROBABILITY)
    log_survival = log_survival + goes_on
    another = logits.scatter(-1, before[..., None], -torch.inf).argmax(-1)
    return torch.where((chosen == before) & (log_survival < LOG_HALF), another, chosen), log_survival
