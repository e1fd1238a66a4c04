"""bf16 where it pays: on hardware that multiplies in it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether products run in bf16: as asked, or under `auto` where the hardware does so.

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
    """Autocast to bf16 where `uses_bf16` says so."""
    if uses_bf16(device, precision):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
