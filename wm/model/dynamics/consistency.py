"""Columns that say the same thing, resolved in one place: where two predictions contradict each other, one decides.

    hurtbox, invulnerable     the logits of both are added
    ground, airborne          whoever is on the ground stands on the predicted surface; if it is none, on the last one;
                              if this is none either, he is in the air. In the air the ground is the last one.
    hitlag, its flag          the number, where it is recorded
    hitstun, its flag         the number
    fast fall, airborne       nobody falls on the ground

Shape legend: B = batch, T = frames, P = players (2), F = flags.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from wm.model.heads import Prediction
from wm.model.state_fields import FLAGS

NO_GROUND = -1
FLAG_COLUMNS = tuple(f"flags_{number}" for number in range(5))
SHIELD_FLAG = 0x01
"""Of flags_1, equal to the flag of a shield in FLAGS."""
NOBODY = 6
"""`last_hit_by` of a player whom nobody has hit lately; else it is a port, less 1."""


def hurtbox_logits(prediction: Prediction) -> Tensor:
    """Log-probabilities of the hurtbox, of both heads that predict it: (B, T, P, values)."""
    logit = prediction.binaries[..., 1:2]
    vulnerable, protected = F.logsigmoid(-logit), F.logsigmoid(logit)
    values = prediction.categories["hurtbox"]
    return values + torch.cat([vulnerable, protected.expand(*logit.shape[:-1], values.shape[-1] - 1)], dim=-1)


def surface(on_ground: Tensor, predicted_ground: Tensor, last_ground: Tensor) -> tuple[Tensor, Tensor]:
    """Ground and airborne, int64 (B, T, P).

    Args:
        on_ground: bool, whether the player is predicted on the ground.
    """
    touches = on_ground & (predicted_ground != NO_GROUND)
    ground = torch.where(touches, predicted_ground, last_ground)
    return ground, (~on_ground | (ground == NO_GROUND)).long()


def flag_columns(
    flags: Tensor | None,
    floats: Mapping[str, Tensor],
    airborne: Tensor,
    last_hit_by: Tensor,
    ports: Tensor,
    has_hitlag: Tensor,
) -> dict[str, Tensor]:
    """State flags and `last_hit_by` of the next frame: int64 (B, T, P). A flag that nobody predicts is not set.

    Args:
        flags: bool (B, T, P, F), the first ones of FLAGS; None if none are predicted.
        floats: `hitlag` and `hitstun` of the next frame.
        last_hit_by: of the last frame.
        ports: (B, P), 1 to 4; whoever is hit was hit by the other player.
        has_hitlag: bool (B, 1, 1).
    """
    known = {} if flags is None else dict(zip(FLAGS, flags.unbind(-1), strict=False))
    in_hitlag = floats["hitlag"] > 0
    known["in_hitlag"] = torch.where(has_hitlag, in_hitlag, known.get("in_hitlag", in_hitlag))
    known["in_hitstun"] = floats["hitstun"] > 0
    if "fast_fall" in known:
        known["fast_fall"] = known["fast_fall"] & (airborne != 0)
    columns = {column: torch.zeros_like(airborne) for column in FLAG_COLUMNS}
    for name, (column, mask) in FLAGS.items():
        if name in known and column in columns:
            columns[column] = columns[column] + mask * known[name].long()
    if "shields" in known:  # two flags that are always equal
        columns["flags_1"] = columns["flags_1"] + SHIELD_FLAG * known["shields"].long()
    if "hit_by_nobody" in known:
        was_hit = torch.where(last_hit_by == NOBODY, ports.flip(1)[:, None] - 1, last_hit_by)
        last_hit_by = torch.where(known["hit_by_nobody"], NOBODY, was_hit)
    return columns | {"last_hit_by": last_hit_by}
