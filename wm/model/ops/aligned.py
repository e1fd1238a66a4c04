"""Linear layers whose widths suit the matrix units of a GPU, whatever the widths of their parameters are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALIGNMENT = 8
"""Elements: cuBLAS is fastest if rows of bf16 matrices start at multiples of 16 bytes."""


def aligned_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; on CUDA with zeros added to both widths, of which the result shows nothing.

    Padding the weights in each pass costs a copy of them, which are few beside the activations, and keeps their stored
    form.

    Args:
        weight: (out, in).
    Returns:
        (..., out), on CUDA a view of a wider tensor.
    """
    missing_out, missing_in = (-size % ALIGNMENT for size in weight.shape)
    if not needs_alignment(input.device) or missing_out == missing_in == 0:
        return F.linear(input, weight, bias)
    if missing_in:
        input = F.pad(input, (0, missing_in))
    padded_bias = None if bias is None else F.pad(bias, (0, missing_out))
    return F.linear(input, F.pad(weight, (0, missing_in, 0, missing_out)), padded_bias)[..., : len(weight)]


def needs_alignment(device: torch.device) -> bool:
    """Whether unaligned widths make matrix products slow."""
    return device.type == "cuda"
