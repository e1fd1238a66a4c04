"""Which scan runs: `auto` takes the Triton kernels only if they have been seen to work on this device.

A kernel fails at its first launch where the compiler, Python's headers or a matching Triton are missing, and it may
compute wrong numbers on a device that nobody has tried. So one mixer at a shape of the run, forward and backward, is
compared with plain torch before training starts.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datasets.runtime.errors import UserError, one_line
from wm.config.model_config import ModelConfig
from wm.model.mamba2 import Mamba2Mixer
from wm.model.ops import fused_ops, ssd_triton
from wm.model.precision import autocast, uses_bf16

TOLERANCES = {torch.bfloat16: 5e-2, torch.float32: 1e-2}
"""Norm of a difference over the norm of the right tensor: the rounding of bf16, and of TF32 in float32 products."""
HEAD_TOLERANCE = 4
"""Times the tolerance for gradients of one number per head, which are sums of terms that cancel."""
NUM_SEQUENCES = 4
MAX_REASON = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanChoice:
    """The scan that runs."""

    backend: Literal["torch", "triton"]
    note: str | None = None
    """One line for the user, if it is not what would be fastest on this device."""


def choose_scan_backend(config: ModelConfig, device: torch.device, precision: str, num_frames: int) -> ScanChoice:
    """The scan for sequences of `num_frames` frames.

    Args:
        precision: of the run, as in its config.
    Raises:
        UserError: the config asks for triton, and the kernels do not work here.
    """
    asked = config.scan_backend
    if config.kind != "mamba2" or asked == "torch" or (asked == "auto" and device.type != "cuda"):
        return ScanChoice(backend="torch")
    problem = kernel_problem(config, device, precision, num_frames)
    if problem is None:
        return ScanChoice(backend="triton")
    if asked == "triton":
        raise UserError(f"model.scan_backend is triton, but {problem}; set model.scan_backend: auto")
    return ScanChoice(backend="torch", note=f"the scan runs in plain torch, not in Triton kernels: {problem}")


def kernel_problem(config: ModelConfig, device: torch.device, precision: str, num_frames: int) -> str | None:
    """Why the kernels cannot be used for sequences of `num_frames` frames, in one line; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not fused_ops.takes_chunk(num_frames, config.headdim, config.d_state) and not ssd_triton.available():
        return (
            f"sequences of {num_frames} frames, model.headdim={config.headdim} and model.d_state={config.d_state} need "
            f"mamba-ssm, which is not installed (`make gpu`); without it the kernels take up to {fused_ops.MAX_FRAMES} "
            f"frames, and sizes of {', '.join(map(str, fused_ops.BLOCK_SIZES))}"
        )
    try:
        return _wrong_numbers(config, device, precision, num_frames)
    except Exception as error:
        return f"they fail on this device ({type(error).__name__}: {one_line(error)})"[:MAX_REASON]
    finally:
        ssd_triton.forget_tuning()


def _wrong_numbers(config: ModelConfig, device: torch.device, precision: str, num_frames: int) -> str | None:
    """Compare a mixer with its twin in plain torch and float32; None if they agree."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        sizes = {"d_state": config.d_state, "headdim": config.headdim, "expand": config.expand, "d_conv": config.d_conv}
        twin = Mamba2Mixer(config.d_model, **sizes, scan_backend="torch").to(device)
        mixer = Mamba2Mixer(config.d_model, **sizes, scan_backend="triton").to(device)
        mixer.load_state_dict(twin.state_dict())
        u, weight = torch.randn(2, NUM_SEQUENCES, num_frames, config.d_model, device=device)
    right = _outputs_and_gradients(twin, u, weight, "fp32")
    found = _outputs_and_gradients(mixer, u, weight, precision)
    tolerance = TOLERANCES[torch.bfloat16 if uses_bf16(device, precision) else torch.float32]
    for name, tensor in found.items():
        error = float((tensor - right[name]).norm() / right[name].norm().clamp(min=1e-30))
        allowed = tolerance * HEAD_TOLERANCE if tensor.numel() == mixer.num_heads else tolerance
        if not error <= allowed:
            return f"{name} is wrong by {error:.1%} (tolerance {allowed:.0%})"
    return None


def _outputs_and_gradients(mixer: Mamba2Mixer, u: Tensor, weight: Tensor, precision: str) -> dict[str, Tensor]:
    leaf = u.clone().requires_grad_()
    with autocast(u.device, precision):
        out, _ = mixer(leaf)
    (out.float() * weight).sum().backward()
    gradients = {f"the gradient of {name}": p.grad for name, p in mixer.named_parameters()}
    named = {"the output": out, "the gradient of the input": leaf.grad} | gradients
    return {name: tensor.detach().float() for name, tensor in named.items() if tensor is not None}
