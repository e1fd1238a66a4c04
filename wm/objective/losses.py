"""The validation loss (`val_loss`, comparable with the older system) and the training loss.

Every part is a mean over valid entries; a field that a game's version lacks is masked. Sums and counts stay separate,
so that means over ranks, batches and games are exact.
Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.loading.frames import GAME_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.model.animation import FIRST_AGES
from wm.model.encoding import Frames, binary, cached_tensor, category, positions, present
from wm.model.heads import (
    BINARIES,
    CATEGORIES,
    DELTAS,
    DYNAMICS,
    VELOCITIES,
    Prediction,
    feature_scales,
    raw_values,
)
from wm.model.motion.candidates import MOTION, motion_values
from wm.model.motion.choice import right_modes
from wm.model.state_fields import PRESENCE, flags_of
from wm.objective.weights import RAW_UNIT_WEIGHTS, SMOOTH_L1_BETA, STATE_LOSS_WEIGHTS, TRAINING_LOSS_WEIGHTS


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSum:
    """One part of a loss: sum of the errors and number of valid entries, both float32 (B, T)."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GroundTruth:
    """Ground truth of a Prediction, in the same units and shapes."""

    deltas: Tensor
    velocities: Tensor
    dynamics: Tensor
    binaries: Tensor
    categories: dict[str, Tensor]


def ground_truth(context: Frames, targets: Frames) -> GroundTruth:
    """Ground truth of each target frame, given its previous frame `context`."""

    def difference(names: tuple[str, ...]) -> Tensor:
        return torch.stack([raw_values(targets, name) - raw_values(context, name) for name in names], dim=-1)

    return GroundTruth(
        deltas=difference(DELTAS),
        velocities=difference(VELOCITIES),
        dynamics=torch.stack([raw_values(targets, name) for name in DYNAMICS], dim=-1),
        binaries=torch.stack([binary(targets, name) for name in BINARIES], dim=-1),
        categories={name: category(targets, name) for name in CATEGORIES},
    )


OPTIONAL_FIELDS: dict[str, str] = dict.fromkeys(VELOCITIES, "velocity") | {
    "hitlag": "hitlag", "invulnerable": "hurtbox", "hurtbox": "hurtbox", "hitstun": PRESENCE, "flags": PRESENCE,
}  # fmt: skip
"""Field that a version may lack -> the metadata flag that tells; all other fields are always present."""
TRAINING_LOSS_FIELDS: dict[str, tuple[str, ...]] = {
    "position": ("x", "y"), "continuous": ("percent", "shield"), "velocity": VELOCITIES, "dynamics": DYNAMICS,
    "binary": BINARIES, **{name: (name,) for name in CATEGORIES},
    **{name: (name,) for name in STATE_LOSS_WEIGHTS},
    "motion": tuple(f"mode of {name}" for name in MOTION),
}  # fmt: skip
"""Part of the training loss -> its fields."""
_PART_WEIGHTS = tuple(TRAINING_LOSS_WEIGHTS[part] for part in TRAINING_LOSS_FIELDS)
_REQUIRED_FLAGS = [
    [f"has_{OPTIONAL_FIELDS[name]}" if name in OPTIONAL_FIELDS else "stage" for name in names]
    for names in TRAINING_LOSS_FIELDS.values()
]
_FIELDS_BY_FLAG = tuple(tuple(float(flags.count(flag)) for flag in GAME_COLUMNS) for flags in _REQUIRED_FLAGS)
"""(parts, GAME_COLUMNS): fields of a part that depend on each flag; the stage column counts the independent ones."""


def _valid(game_BC: Tensor, names: tuple[str, ...]) -> Tensor:
    """Mask of the fields that a game has: float32 (B, len(names)), 1 or 0."""
    ones = torch.ones(len(game_BC), device=game_BC.device)
    columns = [present(game_BC, OPTIONAL_FIELDS[name]) if name in OPTIONAL_FIELDS else ones for name in names]
    return torch.stack(columns, dim=-1)


def _part(errors_BTPC: Tensor, targets: Frames, names: tuple[str, ...]) -> PartSum:
    if not any(name in OPTIONAL_FIELDS for name in names):
        total = errors_BTPC.sum((-2, -1))
        return PartSum(total=total, count=torch.full_like(total, NUM_PLAYERS * len(names)))
    valid = _valid(targets.game, names)[:, None, None].expand_as(errors_BTPC)
    return PartSum(total=(errors_BTPC * valid).sum((-2, -1)), count=valid.sum((-2, -1)))


def _classification_parts(prediction: Prediction, truth: GroundTruth, targets: Frames) -> dict[str, PartSum]:
    """Cross-entropies of categories and binaries, which both losses share."""
    parts = {}
    bce = F.binary_cross_entropy_with_logits(prediction.binaries, truth.binaries, reduction="none")
    parts["binary"] = _part(bce, targets, BINARIES)
    for name in CATEGORIES:
        logits = prediction.categories[name]
        entropy = F.cross_entropy(logits.flatten(0, 2), truth.categories[name].flatten(), reduction="none")
        parts[name] = _part(entropy.view(*logits.shape[:3], 1), targets, (name,))
    return parts


def val_loss_parts(prediction: Prediction, context: Frames, targets: Frames) -> dict[str, PartSum]:
    """The parts of `val_loss` (VAL_LOSS_WEIGHTS): squared errors in scaled units, and cross-entropies."""
    truth = ground_truth(context, targets)
    device = prediction.deltas.device

    def squared(predicted: Tensor, actual: Tensor, names: tuple[str, ...]) -> PartSum:
        return _part(((predicted - actual) * feature_scales(names, device)).square(), targets, names)

    return {
        "continuous": squared(prediction.deltas, truth.deltas, DELTAS),
        "velocity": squared(prediction.velocities, truth.velocities, VELOCITIES),
        "dynamics": squared(prediction.dynamics, truth.dynamics, DYNAMICS),
    } | _classification_parts(prediction, truth, targets)


def training_loss_parts(
    prediction: Prediction, context: Frames, targets: Frames, true_modes: Tensor | None = None
) -> dict[str, PartSum]:
    """The parts of the training loss (TRAINING_LOSS_FIELDS): smooth-L1 in raw units, and cross-entropies.

    Without those of STATE_LOSS_WEIGHTS that the network does not predict.

    Args:
        true_modes: bool (B, T, P, N, M), candidates of the motion that hold from the true frame before
            (`wm.model.motion.choice.modes_of`), where `context` is not true; None: those that hold from `context`.
    """
    truth = ground_truth(context, targets)
    device = prediction.deltas.device

    def smooth(predicted: Tensor, actual: Tensor, part: str) -> PartSum:
        names = TRAINING_LOSS_FIELDS[part]
        weights = cached_tensor(tuple(RAW_UNIT_WEIGHTS.get(name, 1.0) for name in names), device)
        errors = F.smooth_l1_loss(predicted, actual, reduction="none", beta=SMOOTH_L1_BETA) * weights
        return _part(errors, targets, names)

    def pair(deltas: Tensor, first: int, second: int) -> Tensor:
        return torch.stack([deltas[..., first], deltas[..., second]], dim=-1)

    return (
        {
            "position": smooth(prediction.deltas[..., 1:3], truth.deltas[..., 1:3], "position"),
            "continuous": smooth(pair(prediction.deltas, 0, 3), pair(truth.deltas, 0, 3), "continuous"),
            "velocity": smooth(prediction.velocities, truth.velocities, "velocity"),
            "dynamics": smooth(prediction.dynamics, truth.dynamics, "dynamics"),
        }
        | _classification_parts(prediction, truth, targets)
        | _state_parts(prediction, context, targets, true_modes)
    )


def _state_parts(
    prediction: Prediction, context: Frames, targets: Frames, true_modes: Tensor | None
) -> dict[str, PartSum]:
    """The parts of STATE_LOSS_WEIGHTS that a network predicts."""
    parts = {}
    if prediction.hitstun is not None:
        truth = targets.float_column("hitstun")
        errors = F.smooth_l1_loss(prediction.hitstun, truth, reduction="none", beta=SMOOTH_L1_BETA)
        parts["hitstun"] = _part((errors * RAW_UNIT_WEIGHTS["hitstun"])[..., None], targets, ("hitstun",))
    if prediction.animation is not None:
        errors = animation_errors(prediction.animation, context, targets)
        parts["animation"] = _part(errors[..., None], targets, ("animation",))
    if prediction.flags is not None:
        bce = F.binary_cross_entropy_with_logits(
            prediction.flags, flags_of(targets, prediction.flags.shape[-1]), reduction="none"
        )
        parts["flags"] = _part(bce.mean(-1, keepdim=True), targets, ("flags",))
    if (motion := prediction.motion) is not None:
        right = true_modes
        if right is None:
            truth = motion_values(targets, positions(context))
            right = right_modes(motion.candidates.detach(), motion.values, truth, motion.airborne)
        errors = -motion.logits.log_softmax(-1).masked_fill(~right, -torch.inf).logsumexp(-1)
        parts["motion"] = _part(errors, targets, TRAINING_LOSS_FIELDS["motion"])
    return parts


def animation_errors(animation: Tensor, context: Frames, targets: Frames) -> Tensor:
    """Errors of the age of the action: whether it begins again, and how far it advances or where it begins.

    Args:
        animation: as `Prediction.animation`.
    Returns:
        float32 (B, T, P), cross-entropy plus smooth-L1 in animation frames.
    """
    before, after = context.float_column("state_age"), targets.float_column("state_age")
    action = category(targets, "action")
    same = action == category(context, "action")
    restarts = same & (after < before)
    restart_logit, step, first = animation.unbind(-1)
    entropy = F.binary_cross_entropy_with_logits(restart_logit, restarts.float(), reduction="none") * same
    first_age = cached_tensor(FIRST_AGES, animation.device)[action]
    predicted = torch.where(same & ~restarts, before + step, first_age + first)
    return entropy + F.smooth_l1_loss(predicted, after, reduction="none", beta=SMOOTH_L1_BETA)


def weighted_sum(factors: Tensor, parts: dict[str, PartSum]) -> Tensor:
    """The training loss: the total of each part times its factor (`training_loss_factors`)."""
    chosen = [(number, name) for number, name in enumerate(TRAINING_LOSS_FIELDS) if name in parts]
    totals = torch.stack([parts[name].total.sum() for _, name in chosen])
    if len(chosen) < len(factors):
        factors = torch.stack([factors[number] for number, _ in chosen])
    return (factors * totals).sum()


def training_loss_factors(game_BC: Tensor, num_predictions: int) -> Tensor:
    """Factor of each part's total: its weight over its number of valid entries in the global batch.

    The number of valid entries follows from the metadata of all examples, which every rank has, so the ranks need no
    communication.

    Args:
        game_BC: int16 (global B, C), metadata of every example of the batch, over all ranks.
        num_predictions: predictions per example.
    Returns:
        float32 (parts,), in the order of TRAINING_LOSS_FIELDS.
    """
    flags = game_BC.clone()
    flags[:, 0] = 1  # the stage column counts all games
    num_games = flags.sum(dim=0).float()
    fields_by_flag = cached_tensor(_FIELDS_BY_FLAG, game_BC.device)
    # Not a matrix product: TF32 would round the counts.
    counts = (num_games * fields_by_flag).sum(dim=-1) * (num_predictions * NUM_PLAYERS)
    return cached_tensor(_PART_WEIGHTS, game_BC.device) / counts.clamp(min=1)
