"""Mixed precision: bf16 autocast on hardware with native bf16 arithmetic."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether matrix products run in bf16: as configured, or with `auto` if the hardware supports it natively.

    A CPU without AVX-512 BF16 or AMX computes bf16 slower than float32.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.backends.cpu.get_cpu_capability()
        return capabilities.startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 autocast if `uses_bf16`, else a null context."""
    if uses_bf16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Ends autocast for a part of the network; nothing on the meta device, which has none."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
