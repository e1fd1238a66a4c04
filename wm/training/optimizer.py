"""AdamW or Muon, and the learning-rate schedule: linear warm-up, then cosine decay, over targets seen."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wm.config.run_config import RunConfig
from wm.model.world_model import WorldModel

MUON_MOMENTUM = 0.95


class Optimizer:
    """One or two of torch's optimizers as one. A learning rate means the same for both (`match_rms_adamw`)."""

    def __init__(self, model: WorldModel, config: RunConfig) -> None:
        optimizer = config.optimizer
        inner, matrices, others = _groups(model)
        self._parts: list[torch.optim.Optimizer] = []
        if optimizer.kind == "muon" and inner:
            self._parts.append(
                torch.optim.Muon(
                    inner,
                    lr=optimizer.learning_rate,
                    weight_decay=optimizer.weight_decay,
                    momentum=MUON_MOMENTUM,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        else:
            matrices = [*inner, *matrices]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": optimizer.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (optimizer.beta1, optimizer.beta2)
        self._parts.append(torch.optim.AdamW(groups, lr=optimizer.learning_rate, betas=betas, fused=True))

    def step(self, learning_rate: float) -> None:
        """Update the weights."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State of all parts, for a checkpoint."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from a checkpoint."""
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def _groups(model: WorldModel) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Hidden matrices; matrices of the input and the heads; vectors, embeddings and convolutions."""
    inner, matrices, others = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim != 2 or "embeddings" in name or "stage" in name:
            others.append(parameter)
        elif name.startswith(("backbone.", "layers.")):
            inner.append(parameter)
        else:
            matrices.append(parameter)
    return inner, matrices, others


def learning_rate(config: RunConfig, batch_size: int, targets_seen: int) -> float:
    """Linear warm-up, then a cosine down to `min_lr_ratio`, over targets seen."""
    optimizer = config.optimizer
    warmup = min(1.0, (targets_seen + batch_size) / max(1, optimizer.warmup_targets))
    progress = min(1.0, targets_seen / optimizer.total_targets)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return optimizer.learning_rate * warmup * (optimizer.min_lr_ratio + (1 - optimizer.min_lr_ratio) * cosine)
