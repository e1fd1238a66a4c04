"""The loss that is reported (`val_loss`, the yardstick's) and the one that is optimised.

Every part is a mean over valid entries: a field that a game's version lacks counts neither above nor below.
Sums and counts are kept apart, so that ranks, batches and games can be pooled exactly.
Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wm.encoding import Frames, binary, category
from wm.prediction import (
    BINARIES,
    CATEGORIES,
    DELTAS,
    DYNAMICS,
    VELOCITIES,
    Prediction,
    raw,
    scales,
)

WEIGHTS: dict[str, float] = {
    "continuous": 1.0, "velocity": 0.5, "dynamics": 0.5, "binary": 0.5, "action": 2.0, "jumps": 0.5,
    "l_cancel": 0.3, "hurtbox": 0.3, "ground": 0.3, "last_attack": 0.3,
}  # fmt: skip
"""Of the parts of `val_loss`, as the older system has them."""

OPTIMISED_WEIGHTS: dict[str, float] = WEIGHTS | {"position": 5.0}
SMOOTH_L1_BETA = 0.1
"""Raw units at which an error stops counting by its square: small motions matter as much as large ones."""
RAW_UNIT_WEIGHTS: dict[str, float] = {
    "percent": 0.1,
    "shield": 0.1,
    "hitlag": 0.1,
    "stocks": 1.0,
    "combo": 0.1,
}
"""What one raw unit of error counts beside one game unit of position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSum:
    """One part of a loss before it becomes a mean: entries lie along (B, T); both are float32 (B, T)."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the prediction is compared with, in raw units."""

    deltas: Tensor
    velocities: Tensor
    dynamics: Tensor
    binaries: Tensor
    categories: dict[str, Tensor]


def truth_of(context: Frames, targets: Frames) -> Truth:
    """The truth of each target frame, given the frame before it."""

    def difference(names: tuple[str, ...]) -> Tensor:
        return torch.stack([raw(targets, name) - raw(context, name) for name in names], dim=-1)

    return Truth(
        deltas=difference(DELTAS),
        velocities=difference(VELOCITIES),
        dynamics=torch.stack([raw(targets, name) for name in DYNAMICS], dim=-1),
        binaries=torch.stack([binary(targets, name) for name in BINARIES], dim=-1),
        categories={name: category(targets, name) for name in CATEGORIES},
    )


def _validity(targets: Frames, names: tuple[str, ...], absent: Mapping[str, str]) -> Tensor:
    """1 where a field is there: (B, 1, 1, len(names))."""
    ones = torch.ones_like(targets.present("velocity"))
    columns = [targets.present(absent[name]) if name in absent else ones for name in names]
    return torch.stack(columns, dim=-1)[:, None, None]


def _part(errors_BTPC: Tensor, valid_B11C: Tensor) -> PartSum:
    valid = valid_B11C.expand_as(errors_BTPC)
    return PartSum(total=(errors_BTPC * valid).sum((-2, -1)), count=valid.sum((-2, -1)))


def _classified(prediction: Prediction, truth: Truth, targets: Frames) -> dict[str, PartSum]:
    """Cross-entropies and binaries: the same in both losses."""
    parts = {}
    bce = F.binary_cross_entropy_with_logits(prediction.binaries, truth.binaries, reduction="none")
    parts["binary"] = _part(bce, _validity(targets, BINARIES, {"invulnerable": "hurtbox"}))
    for name in CATEGORIES:
        logits = prediction.categories[name]
        entropy = F.cross_entropy(logits.flatten(0, 2), truth.categories[name].flatten(), reduction="none")
        errors = entropy.view(*logits.shape[:3], 1)
        parts[name] = _part(errors, _validity(targets, (name,), {"hurtbox": "hurtbox"}))
    return parts


_VELOCITY_ABSENT = dict.fromkeys(VELOCITIES, "velocity")
_DYNAMICS_ABSENT = {"hitlag": "hitlag"}


def reported_parts(prediction: Prediction, context: Frames, targets: Frames) -> dict[str, PartSum]:
    """The parts of `val_loss`: squared errors in scaled units, cross-entropies, as WEIGHTS names them."""
    truth = truth_of(context, targets)
    device = prediction.deltas.device

    def squared(predicted: Tensor, actual: Tensor, names: tuple[str, ...], absent: Mapping[str, str]) -> PartSum:
        errors = ((predicted - actual) * scales(names, device)).square()
        return _part(errors, _validity(targets, names, absent))

    return {
        "continuous": squared(prediction.deltas, truth.deltas, DELTAS, {}),
        "velocity": squared(prediction.velocities, truth.velocities, VELOCITIES, _VELOCITY_ABSENT),
        "dynamics": squared(prediction.dynamics, truth.dynamics, DYNAMICS, _DYNAMICS_ABSENT),
    } | _classified(prediction, truth, targets)


def optimised_parts(prediction: Prediction, context: Frames, targets: Frames) -> dict[str, PartSum]:
    """The parts that training follows: smooth-L1 in raw units where `val_loss` has squares in scaled ones."""
    truth = truth_of(context, targets)
    device = prediction.deltas.device

    def smooth(predicted: Tensor, actual: Tensor, names: tuple[str, ...], absent: Mapping[str, str]) -> PartSum:
        weights = torch.tensor([RAW_UNIT_WEIGHTS.get(name, 1.0) for name in names], device=device)
        errors = F.smooth_l1_loss(predicted, actual, reduction="none", beta=SMOOTH_L1_BETA) * weights
        return _part(errors, _validity(targets, names, absent))

    x_and_y = slice(1, 3)
    others = [0, 3]
    return {
        "position": smooth(prediction.deltas[..., x_and_y], truth.deltas[..., x_and_y], ("x", "y"), {}),
        "continuous": smooth(prediction.deltas[..., others], truth.deltas[..., others], ("percent", "shield"), {}),
        "velocity": smooth(prediction.velocities, truth.velocities, VELOCITIES, _VELOCITY_ABSENT),
        "dynamics": smooth(prediction.dynamics, truth.dynamics, DYNAMICS, _DYNAMICS_ABSENT),
    } | _classified(prediction, truth, targets)
