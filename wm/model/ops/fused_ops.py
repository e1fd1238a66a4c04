"""The kernels of `wm.model.ops.triton_kernels` as operators that torch.compile calls without looking inside.

Not measured on a GPU yet.
Shape legend: B = batch, T = frames, C = channels, H = heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MAX_FRAMES = 64
"""Frames of the one chunk that `chunk_scan` takes: above it, what is quadratic in the frames costs more."""
BLOCK_SIZES = (16, 32, 64, 128)
"""Sizes of heads and states that `chunk_scan` takes: those that matrix units multiply without padding."""
CONV_BLOCK = {"block_t": 64, "block_c": 64}
NUM_WARPS = {"forward": 4, "backward": 8}


def takes_chunk(num_frames: int, headdim: int, d_state: int) -> bool:
    """Whether `chunk_scan` computes a sequence of this shape."""
    return num_frames <= MAX_FRAMES and headdim in BLOCK_SIZES and d_state in BLOCK_SIZES


def _kernel(name: str) -> Any:
    """A kernel, imported here because Triton may be missing."""
    from wm.model.ops import triton_kernels

    return getattr(triton_kernels, name)


@torch.library.custom_op("wm::conv_silu", mutates_args=())
def conv_silu(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> Tensor:
    """silu(causal depthwise convolution), zero before the first frame.

    Args:
        x_BTC: contiguous in C.
        weight_CK: (C, taps), the last tap is the frame itself; any float type.
    Returns:
        (B, T, C), contiguous, in the type of x.
    """
    out = x_BTC.new_empty(x_BTC.shape)
    grid, arguments = _conv_launch(x_BTC, weight_CK)
    _kernel("conv_silu_forward")[grid](
        x_BTC, weight_CK, bias_C, out, *arguments, **CONV_BLOCK, num_warps=NUM_WARPS["forward"]
    )
    return out


@torch.library.custom_op("wm::conv_silu_backward", mutates_args=())
def conv_silu_backward(grad_BTC: Tensor, x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of x; and of the weight and the bias, summed over blocks: float32 (taps + 1, C)."""
    channels, taps = weight_CK.shape
    grad_x = x_BTC.new_empty(x_BTC.shape)
    grid, arguments = _conv_launch(x_BTC, weight_CK)
    partial = x_BTC.new_empty(grid[0] * grid[1], taps + 1, channels, dtype=torch.float32)
    _kernel("conv_silu_backward")[grid](
        x_BTC, weight_CK, bias_C, grad_BTC, grad_x, partial, *arguments, **CONV_BLOCK, num_warps=NUM_WARPS["backward"]
    )
    return grad_x, partial.sum(0)


def _conv_launch(x_BTC: Tensor, weight_CK: Tensor) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    batch, frames, channels = x_BTC.shape
    assert x_BTC.stride(2) == 1 and weight_CK.is_contiguous()
    grid = batch, -(-frames // CONV_BLOCK["block_t"]), -(-channels // CONV_BLOCK["block_c"])
    return grid, (frames, x_BTC.stride(0), x_BTC.stride(1), channels, weight_CK.shape[1])


@torch.library.custom_op("wm::chunk_scan", mutates_args=())
def chunk_scan(xbc_BTC: Tensor, dt_BTH: Tensor, a_H: Tensor, d_H: Tensor, z_BTC: Tensor, headdim: int) -> Tensor:
    """(scan(x, dt, a, b, c) + d x) silu(z) from zero state, see `wm.model.ops.ssd.scan`; `takes_chunk` must hold.

    Args:
        xbc_BTC: x of all heads, b, c side by side; contiguous in C.
        dt_BTH, a_H, d_H: float32.
        z_BTC: the gate of all heads, contiguous in C.
    Returns:
        (B, T, H * headdim), contiguous, in the type of xbc.
    """
    y = z_BTC.new_empty(z_BTC.shape, dtype=xbc_BTC.dtype)
    strides, sizes = _scan_launch(xbc_BTC, dt_BTH, z_BTC, headdim)
    _kernel("scan_forward")[(xbc_BTC.shape[0], dt_BTH.shape[2])](
        xbc_BTC, dt_BTH, a_H, d_H, z_BTC, y, *strides, **sizes, num_warps=NUM_WARPS["forward"]
    )
    return y


@torch.library.custom_op("wm::chunk_scan_backward", mutates_args=())
def chunk_scan_backward(
    grad_BTC: Tensor, xbc_BTC: Tensor, dt_BTH: Tensor, a_H: Tensor, d_H: Tensor, z_BTC: Tensor, headdim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of xbc, dt and z; and of a and d: float32 (2, H)."""
    grad_xbc, grad_z = xbc_BTC.new_empty(xbc_BTC.shape), z_BTC.new_empty(z_BTC.shape)
    grad_dt, partial = torch.empty_like(dt_BTH), dt_BTH.new_empty(len(dt_BTH), 2, dt_BTH.shape[2])
    strides, sizes = _scan_launch(xbc_BTC, dt_BTH, z_BTC, headdim)
    _kernel("scan_backward")[(xbc_BTC.shape[0],)](
        xbc_BTC, dt_BTH, a_H, d_H, z_BTC, grad_BTC, grad_xbc, grad_dt, grad_z, partial, *strides, **sizes,
        num_warps=NUM_WARPS["backward"],
    )  # fmt: skip
    return grad_xbc, grad_dt, grad_z, partial.sum(0)


def _scan_launch(
    xbc_BTC: Tensor, dt_BTH: Tensor, z_BTC: Tensor, headdim: int
) -> tuple[tuple[int, ...], dict[str, int]]:
    num_frames, num_heads = dt_BTH.shape[1:]
    states = (xbc_BTC.shape[2] - num_heads * headdim) // 2
    assert takes_chunk(num_frames, headdim, states)
    assert xbc_BTC.stride(2) == z_BTC.stride(2) == 1 and dt_BTH.is_contiguous() and dt_BTH.dtype == torch.float32
    block = max(BLOCK_SIZES[0], 1 << (num_frames - 1).bit_length())
    sizes = {"num_heads": num_heads, "width": headdim, "states": states, "block_t": block}
    return (num_frames, *xbc_BTC.stride()[:2], *z_BTC.stride()[:2]), sizes


# Shapes for torch.compile, and derivatives.


@conv_silu.register_fake
def _(x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> Tensor:
    return x_BTC.new_empty(x_BTC.shape)


@conv_silu_backward.register_fake
def _(grad_BTC: Tensor, x_BTC: Tensor, weight_CK: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    channels, taps = weight_CK.shape
    return x_BTC.new_empty(x_BTC.shape), x_BTC.new_empty(taps + 1, channels, dtype=torch.float32)


@chunk_scan.register_fake
def _(xbc_BTC: Tensor, dt_BTH: Tensor, a_H: Tensor, d_H: Tensor, z_BTC: Tensor, headdim: int) -> Tensor:
    return z_BTC.new_empty(z_BTC.shape, dtype=xbc_BTC.dtype)


@chunk_scan_backward.register_fake
def _(
    grad_BTC: Tensor, xbc_BTC: Tensor, dt_BTH: Tensor, a_H: Tensor, d_H: Tensor, z_BTC: Tensor, headdim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_xbc, grad_z = xbc_BTC.new_empty(xbc_BTC.shape), z_BTC.new_empty(z_BTC.shape)
    return grad_xbc, torch.empty_like(dt_BTH), grad_z, dt_BTH.new_empty(2, dt_BTH.shape[2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.numbers = inputs[len(tensors) :]


def _conv_gradients(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _, weight_CK, bias_C = ctx.saved_tensors
    grad_x, sums = conv_silu_backward(grad_BTC.contiguous(), *ctx.saved_tensors)
    return grad_x, sums[:-1].t().to(weight_CK.dtype), sums[-1].to(bias_C.dtype)


def _scan_gradients(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None]:
    grad_xbc, grad_dt, grad_z, sums = chunk_scan_backward(grad_BTC.contiguous(), *ctx.saved_tensors, *ctx.numbers)
    return grad_xbc, grad_dt, sums[0], sums[1], grad_z, None


conv_silu.register_autograd(_conv_gradients, setup_context=_save)
chunk_scan.register_autograd(_scan_gradients, setup_context=_save)
