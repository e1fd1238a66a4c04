"""The age of an action (`state_age`): it begins, goes on at its own speed, or begins again.

Without a head for it (encodings 2 and 3) it begins at the age of `wm.model.animation` and goes on at the speed that was
observed or is the action's, and no restart but that of a fall is seen. An action keeps its speed in 97 % of its frames,
and stands still while more than a frame of hitlag is left.
With the head, that decides where it clearly differs from the observed speed: walks and runs follow the stick, attacks
stand still in the hitlag of games that do not record it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPEED_TOLERANCE = 0.15
"""Animation frames. A predicted speed this close to the last one is the last one, which is exact; this close to 0, the
animation stands still."""
MAX_SPEED = 20.0


def next_age(
    age: Tensor, speed: Tensor, same: Tensor, frozen: Tensor, entry: Tensor, animation: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Age and speed in the next frame.

    Args:
        age, speed: (B, T, P), of the frame.
        same: bool (B, T, P), whether its action goes on.
        frozen: bool (B, T, P), whether hitlag holds it.
        entry: (B, T, P, 3), rows of `age_table` of the next frame's action.
        animation: as `Prediction.animation`.
    """
    first, usual, length = entry.unbind(-1)
    if animation is None:
        going_on = torch.where(frozen, age, age + speed)
        going_on = torch.where(going_on >= length, 0.0, going_on)
        return torch.where(same, going_on, first), torch.where(same, speed, usual)
    restart_logit, predicted, beyond = animation.unbind(-1)
    step = torch.where((predicted - speed).abs() < SPEED_TOLERANCE, speed, predicted)
    step = torch.where((predicted.abs() < SPEED_TOLERANCE) | frozen, 0.0, step.clamp(0, MAX_SPEED))
    goes_on = same & (frozen | (restart_logit <= 0))
    first = (first + beyond).round()
    speed = torch.where(step == 0, speed, step)
    return torch.where(goes_on, age + step, first), torch.where(goes_on, speed, usual)
