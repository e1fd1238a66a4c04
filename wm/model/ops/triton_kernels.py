"""Triton kernels of a Mamba-2 block for sequences of one chunk: convolution with SiLU, and the scan with its gate.

One pass over memory each, forward and backward, with no autotuning and no atomics, so results are deterministic.
`wm/model/ops/fused_ops.py` makes them operators; `tests/model/test_triton_kernels.py` compares them with plain torch.
Importing this module needs Triton.
Shape legend: B = batch, T = frames, C = channels, H = heads, P = head width, N = state size, K = taps.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _convolved(x_ptr, w_ptr, bias, t, c, num_frames, stride_t, num_channels: tl.constexpr, taps: tl.constexpr):
    """Pre-activation at frames `t` of channels `c`: float32 (T, C)."""
    in_block = c[None, :] < num_channels
    out = tl.zeros((t.shape[0], c.shape[0]), tl.float32) + bias[None, :]
    for tap in tl.static_range(taps):
        source = t - (taps - 1) + tap
        valid = (source >= 0) & (source < num_frames)
        x = tl.load(x_ptr + source[:, None] * stride_t + c[None, :], mask=valid[:, None] & in_block, other=0.0)
        weight = tl.load(w_ptr + c * taps + tap, mask=c < num_channels, other=0.0).to(tl.float32)
        out += x.to(tl.float32) * weight[None, :]
    return out


@triton.jit
def conv_silu_forward(
    x_ptr, w_ptr, bias_ptr, out_ptr, num_frames, stride_b, stride_t,
    num_channels: tl.constexpr, taps: tl.constexpr, block_t: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """silu(conv(x) + bias); grid (B, blocks of T, blocks of C). x is (B, T, C) with strides, out is contiguous."""
    batch = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * block_t + tl.arange(0, block_t)
    c = tl.program_id(2) * block_c + tl.arange(0, block_c)
    bias = tl.load(bias_ptr + c, mask=c < num_channels, other=0.0).to(tl.float32)
    pre = _convolved(x_ptr + batch * stride_b, w_ptr, bias, t, c, num_frames, stride_t, num_channels, taps)
    out = pre * tl.sigmoid(pre)
    place = out_ptr + (batch * num_frames + t[:, None]) * num_channels + c[None, :]
    tl.store(place, out.to(out_ptr.dtype.element_ty), mask=(t[:, None] < num_frames) & (c[None, :] < num_channels))


@triton.jit
def conv_silu_backward(
    x_ptr, w_ptr, bias_ptr, grad_ptr, grad_x_ptr, partial_ptr, num_frames, stride_b, stride_t,
    num_channels: tl.constexpr, taps: tl.constexpr, block_t: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Gradients; the grid of the forward pass. grad and grad_x are contiguous (B, T, C).

    partial: float32 (B * blocks of T, K + 1, C), each program's sums for the weight, then for the bias.
    """
    batch = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * block_t + tl.arange(0, block_t)
    c = tl.program_id(2) * block_c + tl.arange(0, block_c)
    in_block = c[None, :] < num_channels
    bias = tl.load(bias_ptr + c, mask=c < num_channels, other=0.0).to(tl.float32)
    x_ptr += batch * stride_b
    rows = batch * num_frames
    partial_ptr += (batch * tl.num_programs(1) + tl.program_id(1)) * (taps + 1) * num_channels
    grad_x = tl.zeros((block_t, block_c), tl.float32)
    for tap in tl.static_range(taps):
        target = t + (taps - 1) - tap
        pre = _convolved(x_ptr, w_ptr, bias, target, c, num_frames, stride_t, num_channels, taps)
        valid = (target[:, None] < num_frames) & in_block
        grad = tl.load(grad_ptr + (rows + target[:, None]) * num_channels + c[None, :], mask=valid, other=0.0)
        gate = tl.sigmoid(pre)
        grad_pre = grad.to(tl.float32) * gate * (1 + pre * (1 - gate))
        weight = tl.load(w_ptr + c * taps + tap, mask=c < num_channels, other=0.0).to(tl.float32)
        grad_x += grad_pre * weight[None, :]
        if tap == taps - 1:  # the frames of this block themselves
            for other in tl.static_range(taps):
                source = t - (taps - 1) + other
                mask = (source[:, None] >= 0) & (source[:, None] < num_frames) & in_block
                x = tl.load(x_ptr + source[:, None] * stride_t + c[None, :], mask=mask, other=0.0).to(tl.float32)
                tl.store(partial_ptr + other * num_channels + c, tl.sum(grad_pre * x, 0), mask=c < num_channels)
            tl.store(partial_ptr + taps * num_channels + c, tl.sum(grad_pre, 0), mask=c < num_channels)
    place = grad_x_ptr + (rows + t[:, None]) * num_channels + c[None, :]
    tl.store(place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=(t[:, None] < num_frames) & in_block)


@triton.jit
def scan_forward(
    xbc_ptr, dt_ptr, a_ptr, d_ptr, z_ptr, y_ptr, num_frames, xbc_stride_b, xbc_stride_t, z_stride_b, z_stride_t,
    num_heads: tl.constexpr, width: tl.constexpr, states: tl.constexpr, block_t: tl.constexpr,
):  # fmt: skip
    """y = (scan(x) + D x) silu(z) of one chunk; grid (B, H). xbc and z have strides, dt and y are contiguous."""
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    t, p, n = tl.arange(0, block_t), tl.arange(0, width), tl.arange(0, states)
    here = t[:, None] < num_frames
    row = xbc_ptr + batch * xbc_stride_b + t[:, None] * xbc_stride_t
    x = tl.load(row + head * width + p[None, :], mask=here, other=0.0)
    b = tl.load(row + num_heads * width + n[None, :], mask=here, other=0.0)
    c = tl.load(row + num_heads * width + states + n[None, :], mask=here, other=0.0)
    dt = tl.load(dt_ptr + (batch * num_frames + t) * num_heads + head, mask=t < num_frames, other=0.0)
    decay = tl.cumsum(dt * tl.load(a_ptr + head), 0)
    causal = t[:, None] >= t[None, :]
    factors = tl.exp(tl.where(causal, decay[:, None] - decay[None, :], float("-inf"))) * dt[None, :]
    weights = tl.dot(c, tl.trans(b)) * factors
    y = tl.dot(weights.to(x.dtype), x) + tl.load(d_ptr + head) * x.to(tl.float32)
    column = head * width + p[None, :]
    z = tl.load(z_ptr + batch * z_stride_b + t[:, None] * z_stride_t + column, mask=here, other=0.0).to(tl.float32)
    y = y * z * tl.sigmoid(z)
    place = y_ptr + (batch * num_frames + t[:, None]) * (num_heads * width) + column
    tl.store(place, y.to(y_ptr.dtype.element_ty), mask=here)


@triton.jit
def scan_backward(
    xbc_ptr, dt_ptr, a_ptr, d_ptr, z_ptr, grad_ptr, grad_xbc_ptr, grad_dt_ptr, grad_z_ptr, partial_ptr,
    num_frames, xbc_stride_b, xbc_stride_t, z_stride_b, z_stride_t,
    num_heads: tl.constexpr, width: tl.constexpr, states: tl.constexpr, block_t: tl.constexpr,
):  # fmt: skip
    """Gradients; grid (B,): a program loops over the heads, which share B and C. What it writes is contiguous.

    partial: float32 (B, 2, H), each program's gradients of A, then of D.
    """
    batch = tl.program_id(0).to(tl.int64)
    t, p, n = tl.arange(0, block_t), tl.arange(0, width), tl.arange(0, states)
    here = t[:, None] < num_frames
    row = xbc_ptr + batch * xbc_stride_b + t[:, None] * xbc_stride_t
    inner: tl.constexpr = num_heads * width
    b = tl.load(row + inner + n[None, :], mask=here, other=0.0)
    c = tl.load(row + inner + states + n[None, :], mask=here, other=0.0)
    scores = tl.dot(c, tl.trans(b))
    causal = t[:, None] >= t[None, :]
    grad_scores = tl.zeros((block_t, block_t), tl.float32)
    rows = batch * num_frames + t
    grad_row = grad_xbc_ptr + rows[:, None] * (inner + 2 * states)
    for head in range(num_heads):
        column = head * width + p[None, :]
        x = tl.load(row + column, mask=here, other=0.0)
        z = tl.load(z_ptr + batch * z_stride_b + t[:, None] * z_stride_t + column, mask=here, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_ptr + rows[:, None] * inner + column, mask=here, other=0.0).to(tl.float32)
        dt = tl.load(dt_ptr + rows * num_heads + head, mask=t < num_frames, other=0.0)
        a, d = tl.load(a_ptr + head), tl.load(d_ptr + head)
        decay = tl.cumsum(dt * a, 0)
        factors = tl.exp(tl.where(causal, decay[:, None] - decay[None, :], float("-inf")))
        weights = scores * factors * dt[None, :]
        wide_x = x.to(tl.float32)
        ungated = tl.dot(weights.to(x.dtype), x) + d * wide_x
        gate = tl.sigmoid(z)
        grad_z = grad_y * ungated * gate * (1 + z * (1 - gate))
        tl.store(grad_z_ptr + rows[:, None] * inner + column, grad_z.to(grad_z_ptr.dtype.element_ty), mask=here)
        grad_u = grad_y * z * gate
        narrow = grad_u.to(x.dtype)
        grad_x = tl.dot(tl.trans(weights.to(x.dtype)), narrow) + d * grad_u
        tl.store(grad_row + column, grad_x.to(grad_xbc_ptr.dtype.element_ty), mask=here)
        grad_weights = tl.dot(narrow, tl.trans(x))
        grad_scores += grad_weights * factors * dt[None, :]
        # Of the cumulative decay; its sum over all frames is 0.
        exponent = grad_weights * weights
        grad_decay = tl.sum(exponent, 1) - tl.sum(exponent, 0)
        grad_step = tl.sum(grad_decay, 0) - tl.cumsum(grad_decay, 0) + grad_decay
        grad_dt = tl.sum(grad_weights * scores * factors, 0) + a * grad_step
        tl.store(grad_dt_ptr + rows * num_heads + head, grad_dt, mask=t < num_frames)
        tl.store(partial_ptr + batch * 2 * num_heads + head, tl.sum(dt * grad_step, 0))
        tl.store(partial_ptr + (batch * 2 + 1) * num_heads + head, tl.sum(tl.sum(grad_u * wide_x, 1), 0))
    narrow_scores = grad_scores.to(b.dtype)
    grad_b, grad_c = tl.dot(tl.trans(narrow_scores), c), tl.dot(narrow_scores, b)
    tl.store(grad_row + inner + n[None, :], grad_b.to(grad_xbc_ptr.dtype.element_ty), mask=here)
    tl.store(grad_row + inner + states + n[None, :], grad_c.to(grad_xbc_ptr.dtype.element_ty), mask=here)
