"""Weights of the parts of the losses. Imports no torch: the metrics need them too."""

from __future__ import annotations

VAL_LOSS_WEIGHTS: dict[str, float] = {
    "continuous": 1.0, "velocity": 0.5, "dynamics": 0.5, "binary": 0.5, "action": 2.0, "jumps": 0.5,
    "l_cancel": 0.3, "hurtbox": 0.3, "ground": 0.3, "last_attack": 0.3,
}  # fmt: skip
"""Part of `val_loss` -> weight, as in the older system."""
STATE_LOSS_WEIGHTS: dict[str, float] = {"hitstun": 0.5, "animation": 0.5, "flags": 0.5, "motion": 1.0}
"""Parts of the training loss that only networks with these fields have -> weight. `val_loss` has none of them, so that
all networks can be compared."""
TRAINING_LOSS_WEIGHTS: dict[str, float] = VAL_LOSS_WEIGHTS | {"position": 5.0} | STATE_LOSS_WEIGHTS
"""Part of the training loss -> weight."""
SMOOTH_L1_BETA = 0.1
"""Error in raw units from which the loss is linear instead of quadratic: small motions count as much as large ones."""
RAW_UNIT_WEIGHTS: dict[str, float] = {
    "percent": 0.1, "shield": 0.1, "hitlag": 0.1, "stocks": 1.0, "combo": 0.1, "hitstun": 0.1,
}  # fmt: skip
"""Weight of an error of one raw unit, relative to one game unit of position (default 1)."""
