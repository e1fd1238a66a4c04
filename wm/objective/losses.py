"""The loss that is reported (`val_loss`, the yardstick's) and the one that is optimised.

Every part is a mean over valid entries: a field that a game's version lacks counts neither above nor below.
Sums and counts are kept apart, so that ranks, batches and games can be pooled exactly.
Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.loading.frames import GAME_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import Frames, binary, category, constant, present
from wm.model.heads import (
    BINARIES,
    CATEGORIES,
    DELTAS,
    DYNAMICS,
    VELOCITIES,
    Prediction,
    raw,
    scales,
)
from wm.objective.weights import RAW_UNIT_WEIGHTS, SMOOTH_L1_BETA, TRAINING_LOSS_WEIGHTS


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


ABSENT: dict[str, str] = dict.fromkeys(VELOCITIES, "velocity") | {
    "hitlag": "hitlag", "invulnerable": "hurtbox", "hurtbox": "hurtbox",
}  # fmt: skip
"""Fields that a version may lack, and the fact that says so; all others are always there."""
TRAINING_LOSS_FIELDS: dict[str, tuple[str, ...]] = {
    "position": ("x", "y"), "continuous": ("percent", "shield"), "velocity": VELOCITIES, "dynamics": DYNAMICS,
    "binary": BINARIES, **{name: (name,) for name in CATEGORIES},
}  # fmt: skip
"""Fields of each part of the training loss."""
_PART_WEIGHTS = tuple(TRAINING_LOSS_WEIGHTS[part] for part in TRAINING_LOSS_FIELDS)
_NEEDED_FACTS = [
    [f"has_{ABSENT[name]}" if name in ABSENT else "stage" for name in names] for names in TRAINING_LOSS_FIELDS.values()
]
_FIELDS_BY_FACT = tuple(tuple(float(needed.count(fact)) for fact in GAME_COLUMNS) for needed in _NEEDED_FACTS)
"""(parts, facts): how many fields of a part hang on each fact of GAME_COLUMNS; in the stage's place, on none."""


def _valid(game_BC: Tensor, names: tuple[str, ...]) -> Tensor:
    """1 where a game has a field, else 0: float32 (B, len(names))."""
    ones = torch.ones(len(game_BC), device=game_BC.device)
    columns = [present(game_BC, ABSENT[name]) if name in ABSENT else ones for name in names]
    return torch.stack(columns, dim=-1)


def _part(errors_BTPC: Tensor, targets: Frames, names: tuple[str, ...]) -> PartSum:
    if not any(name in ABSENT for name in names):
        total = errors_BTPC.sum((-2, -1))
        return PartSum(total=total, count=torch.full_like(total, NUM_PLAYERS * len(names)))
    valid = _valid(targets.game, names)[:, None, None].expand_as(errors_BTPC)
    return PartSum(total=(errors_BTPC * valid).sum((-2, -1)), count=valid.sum((-2, -1)))


def _classified(prediction: Prediction, truth: Truth, targets: Frames) -> dict[str, PartSum]:
    """Cross-entropies and binaries: the same in both losses."""
    parts = {}
    bce = F.binary_cross_entropy_with_logits(prediction.binaries, truth.binaries, reduction="none")
    parts["binary"] = _part(bce, targets, BINARIES)
    for name in CATEGORIES:
        logits = prediction.categories[name]
        entropy = F.cross_entropy(logits.flatten(0, 2), truth.categories[name].flatten(), reduction="none")
        parts[name] = _part(entropy.view(*logits.shape[:3], 1), targets, (name,))
    return parts


def val_loss_parts(prediction: Prediction, context: Frames, targets: Frames) -> dict[str, PartSum]:
    """The parts of `val_loss`: squared errors in scaled units, cross-entropies, as VAL_LOSS_WEIGHTS names them."""
    truth = truth_of(context, targets)
    device = prediction.deltas.device

    def squared(predicted: Tensor, actual: Tensor, names: tuple[str, ...]) -> PartSum:
        return _part(((predicted - actual) * scales(names, device)).square(), targets, names)

    return {
        "continuous": squared(prediction.deltas, truth.deltas, DELTAS),
        "velocity": squared(prediction.velocities, truth.velocities, VELOCITIES),
        "dynamics": squared(prediction.dynamics, truth.dynamics, DYNAMICS),
    } | _classified(prediction, truth, targets)


def training_loss_parts(prediction: Prediction, context: Frames, targets: Frames) -> dict[str, PartSum]:
    """The parts that training follows: smooth-L1 in raw units where `val_loss` has squares in scaled ones."""
    truth = truth_of(context, targets)
    device = prediction.deltas.device

    def smooth(predicted: Tensor, actual: Tensor, part: str) -> PartSum:
        names = TRAINING_LOSS_FIELDS[part]
        weights = constant(tuple(RAW_UNIT_WEIGHTS.get(name, 1.0) for name in names), device)
        errors = F.smooth_l1_loss(predicted, actual, reduction="none", beta=SMOOTH_L1_BETA) * weights
        return _part(errors, targets, names)

    def two(deltas: Tensor, first: int, second: int) -> Tensor:
        return torch.stack([deltas[..., first], deltas[..., second]], dim=-1)

    return {
        "position": smooth(prediction.deltas[..., 1:3], truth.deltas[..., 1:3], "position"),
        "continuous": smooth(two(prediction.deltas, 0, 3), two(truth.deltas, 0, 3), "continuous"),
        "velocity": smooth(prediction.velocities, truth.velocities, "velocity"),
        "dynamics": smooth(prediction.dynamics, truth.dynamics, "dynamics"),
    } | _classified(prediction, truth, targets)


def training_loss_factors(game_BC: Tensor, num_predictions: int) -> Tensor:
    """What a part's total is multiplied by, so that the parts of a whole batch add up to its loss.

    A part is a mean over the valid entries of all ranks' examples. Their number follows from the games' facts,
    which every rank knows of the whole batch, so nothing has to be exchanged.

    Args:
        game_BC: int16 (B, C), facts of every example of the batch, over all ranks.
        num_predictions: frames that each example predicts.
    Returns:
        float32 (parts,), as TRAINING_LOSS_FIELDS has them: a part's weight over its number of valid entries.
    """
    facts = game_BC.clone()
    facts[:, 0] = 1  # in the stage's place what every game has
    having = facts.sum(dim=0).float()
    per_fact = constant(_FIELDS_BY_FACT, game_BC.device)
    # A sum of products, no matrix product: that might run in TF32, which cannot count.
    counts = (having * per_fact).sum(dim=-1) * (num_predictions * NUM_PLAYERS)
    return constant(_PART_WEIGHTS, game_BC.device) / counts.clamp(min=1)
