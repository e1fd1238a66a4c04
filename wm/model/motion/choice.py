"""The choice among candidates: means for losses and metrics, the most probable ones for dreams, and what is right.

Shape legend: B = batch, T = frames, P = players (2), N = numbers (7), M = modes, candidates of a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wm.model.encoding import Frames, cached_tensor, controllers, positions
from wm.model.motion.candidates import (
    AS_AIR,
    AS_GROUND,
    BESIDE_VELOCITY,
    EXISTING_MODES,
    MOTION,
    NUM_MODES,
    NUM_VELOCITIES,
    REGRESSED,
    TOLERANCE,
    VELOCITY,
    Physics,
    motion_values,
    total_velocity,
)

_AIR, _GROUND = MOTION.index("self_air_x"), MOTION.index("self_ground_x")
assert (_AIR, _GROUND) == (0, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionPrediction:
    """Logits of the candidates and what they are."""

    logits: Tensor
    """(B, T, P, N, M); -inf for modes that do not exist."""
    candidates: Tensor
    """(B, T, P, N, M), changes; those that depend on other numbers are 0."""
    values: Tensor
    """(B, T, P, N), MOTION in the context frame."""
    airborne: Tensor
    """bool (B, T, P), in the context frame."""

    def mean(self) -> Tensor:
        """Mean changes: (B, T, P, N)."""
        return self._resolved(self.logits.softmax(-1))

    def most_probable(self) -> Tensor:
        """Changes of the most probable candidates, with the gradient of the mean (straight through): (B, T, P, N)."""
        weights = F.one_hot(self.logits.argmax(-1), NUM_MODES).to(self.candidates.dtype)
        if torch.is_grad_enabled():
            soft = self.logits.softmax(-1)
            weights = weights + soft - soft.detach()
        return self._resolved(weights)

    def _resolved(self, weights: Tensor) -> Tensor:
        changes = (weights * self.candidates).sum(-1)
        following = self.values + changes
        air, own_y, ground, *knockback = following[..., :NUM_VELOCITIES].unbind(-1)
        as_ground = weights[..., _AIR, AS_GROUND] * (ground - self.values[..., _AIR])
        as_air = weights[..., _GROUND, AS_AIR] * (air - self.values[..., _GROUND])
        air = torch.where(self.airborne, air, air + as_ground)
        ground = torch.where(self.airborne, ground + as_air, ground)
        velocities = torch.stack([air, own_y, ground, *knockback], dim=-1)
        moved = weights[..., NUM_VELOCITIES:, VELOCITY] + weights[..., NUM_VELOCITIES:, BESIDE_VELOCITY]
        place = changes[..., NUM_VELOCITIES:] + moved * total_velocity(velocities)
        return torch.cat([velocities - self.values[..., :NUM_VELOCITIES], place], dim=-1)


def right_modes(candidates: Tensor, values: Tensor, truth: Tensor, airborne: Tensor) -> Tensor:
    """Which candidates hold: bool (B, T, P, N, M). `regressed` where no other does.

    Args:
        candidates: (B, T, P, N, M), changes.
        values: (B, T, P, N), MOTION in the context frame.
        truth: (B, T, P, N), MOTION in the next frame.
        airborne: bool (B, T, P), in the context frame.
    """
    changes = truth - values
    known = candidates.clone()
    known[..., _AIR, AS_GROUND] = (truth[..., _GROUND] - values[..., _AIR]).masked_fill(airborne, torch.inf)
    known[..., _GROUND, AS_AIR] = (truth[..., _AIR] - values[..., _GROUND]).masked_fill(~airborne, torch.inf)
    moved = total_velocity(truth)
    known[..., NUM_VELOCITIES:, VELOCITY] = moved
    known[..., NUM_VELOCITIES:, BESIDE_VELOCITY] += moved
    holds = (known - changes[..., None]).abs() < TOLERANCE
    holds = holds & cached_tensor(EXISTING_MODES, holds.device, torch.bool)
    holds[..., REGRESSED] = ~holds[..., REGRESSED + 1 :].any(-1)
    return holds


def modes_of(physics: Physics, frames: Frames) -> Tensor:
    """Which candidates hold in the transitions between T + 1 true frames: bool (B, T, P, N, M)."""
    last = frames.num_frames - 1
    before, after = frames.slice(0, last), frames.slice(1, last + 1)
    candidates, _ = physics(before, controllers(after), None)
    truth = motion_values(after, positions(before))
    return right_modes(candidates.changes, candidates.values, truth, candidates.airborne)
