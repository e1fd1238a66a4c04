"""How weights follow the loss: AdamW, warm-up and cosine over targets seen."""

from __future__ import annotations

import math

import torch

from wm.config import RunConfig
from wm.model import WorldModel


def make_optimiser(model: WorldModel, config: RunConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in n and "stage" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimiser = config.optimiser
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": optimiser.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=optimiser.learning_rate,
        betas=(optimiser.beta1, optimiser.beta2),
        fused=True,
    )


def learning_rate(config: RunConfig, targets_seen: int) -> float:
    """Linear warm-up, then a cosine down to `final_share`, over targets seen."""
    optimiser = config.optimiser
    warmup = min(1.0, (targets_seen + optimiser.batch_size) / max(1, optimiser.warmup_targets))
    progress = min(1.0, targets_seen / optimiser.total_targets)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return optimiser.learning_rate * warmup * (optimiser.final_share + (1 - optimiser.final_share) * cosine)
