"""AdamW or Muon."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wm.config.run_config import RunConfig
from wm.model.world_model import WorldModel

MUON_MOMENTUM = 0.95
DEVICE_OPTIONS = ("lr", "capturable", "fused")
"""Options of a parameter group that depend on the device, and are not taken from a checkpoint."""


class Optimizer:
    """One or two of torch's optimizers as one. A learning rate means the same for both (`match_rms_adamw`).

    On CUDA, AdamW runs without the host waiting and can be captured in a CUDA graph: its learning rate is a tensor.
    """

    def __init__(self, model: WorldModel, config: RunConfig) -> None:
        optimizer = config.optimizer
        inner, matrices, others = _groups(model)
        self._max_grad_norm, self._learning_rate = optimizer.max_grad_norm, optimizer.learning_rate
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
        self._is_cuda = others[0].is_cuda
        rate = (
            torch.tensor(optimizer.learning_rate, device=others[0].device) if self._is_cuda else optimizer.learning_rate
        )
        self._adamw = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True, capturable=self._is_cuda)
        self._parts.append(self._adamw)

    @property
    def waits_for_norm(self) -> bool:
        """Whether the host reads the norm in each update: on a CPU, and with torch's Muon, which cannot skip one."""
        return not self._is_cuda or len(self._parts) > 1

    @property
    def gradients(self) -> list[Tensor]:
        """Gradients of all parameters that have one."""
        parameters = [p for part in self._parts for group in part.param_groups for p in group["params"]]
        return [p.grad for p in parameters if p.grad is not None]

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next updates."""
        self._learning_rate = learning_rate
        for part in self._parts:
            for group in part.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def set_betas(self, beta1: float, beta2: float) -> None:
        """Set the decay of AdamW's moments in the next updates."""
        for group in self._adamw.param_groups:
            group["betas"] = (beta1, beta2)

    def clip_and_step(self) -> Tensor:
        """Clip the gradients to `max_grad_norm` and update the weights, unless a gradient is not finite.

        A non-finite gradient leaves weights and moments as they are. AdamW's fused kernel clips and skips without a
        pass of its own over the gradients, and on CUDA without the host waiting.

        Returns:
            Norm of the gradients before clipping: float32 scalar.
        """
        norm = nn.utils.get_total_norm(self.gradients, foreach=True)
        is_finite = torch.isfinite(norm)
        if self.waits_for_norm and not bool(is_finite):
            return norm
        # As `clip_grad_norm_` with its 1e-6; the kernel divides by the scale.
        scale = ((norm + 1e-6) / self._max_grad_norm).clamp(min=1.0)
        for part in self._parts:
            if part is self._adamw:
                self._adamw.grad_scale = scale  # pyrefly: ignore[missing-attribute]
                self._adamw.found_inf = (~is_finite).float()  # pyrefly: ignore[missing-attribute]
            else:
                torch._foreach_div_([p.grad for group in part.param_groups for p in group["params"]], scale)
            part.step()
        return norm

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State of all parts, for a checkpoint of any device."""
        states = [part.state_dict() for part in self._parts]
        for state in states:
            for group in state["param_groups"]:
                group["lr"] = self._learning_rate
        return {"parts": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from a checkpoint, which another kind of device may have written."""
        for part, saved in zip(self._parts, state["parts"], strict=True):
            own = [{name: group[name] for name in DEVICE_OPTIONS if name in group} for group in part.param_groups]
            part.load_state_dict(saved)
            for group, options in zip(part.param_groups, own, strict=True):
                group.update(options)


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
