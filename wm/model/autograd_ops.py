"""What lies between a block's matrix products, with derivatives written by hand.

Plain autograd passes over memory about twice as often. Guarded by `benchmarks/train_step.py`.
Shape legend: B = batch, T = frames, C = channels, H = heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class CausalConvolution(torch.autograd.Function):
    """Depthwise convolution over time as shifted multiply-adds: on a CPU faster than nn.Conv1d.

    Takes (B, taps - 1 + T, C) with what came before in front, weights (taps, C) and bias (C); gives (B, T, C).
    """

    @staticmethod
    def forward(ctx: Any, padded_BTC: Tensor, weight_TC: Tensor, bias_C: Tensor) -> Tensor:
        ctx.save_for_backward(padded_BTC, weight_TC)
        num_taps = len(weight_TC)
        num_frames = padded_BTC.shape[1] - num_taps + 1
        out = torch.addcmul(bias_C, padded_BTC[:, :num_frames], weight_TC[0])
        for tap in range(1, num_taps):
            out.addcmul_(padded_BTC[:, tap : tap + num_frames], weight_TC[tap])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, Tensor]:  # pyrefly: ignore
        (out_BTC,) = grad_outputs
        padded_BTC, weight_TC = ctx.saved_tensors
        num_taps, num_frames = len(weight_TC), out_BTC.shape[1]
        into = torch.zeros_like(padded_BTC)
        weights = []
        for tap in range(num_taps):
            part = slice(tap, tap + num_frames)
            into[:, part].addcmul_(out_BTC, weight_TC[tap])
            weights.append((out_BTC * padded_BTC[:, part]).sum((0, 1)))
        return into, torch.stack(weights), out_BTC.sum((0, 1))


class RMSNorm(torch.autograd.Function):
    """x * weight / sqrt(mean(x^2) + eps) over the last dimension, in the type of x, sums in float32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_() / x.shape[-1]
        scale = mean_square.add_(eps).rsqrt_()
        normed = x * scale.to(x.dtype)
        ctx.save_for_backward(normed, weight_C, scale)
        return normed * weight_C.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None]:  # pyrefly: ignore
        (out,) = grad_outputs
        normed, weight_C, scale = ctx.saved_tensors
        product = out * normed
        weight = product.flatten(0, -2).sum(0, dtype=weight_C.dtype)
        along = product @ weight_C.to(out.dtype) / out.shape[-1]
        into = out * weight_C.to(out.dtype)
        into.addcmul_(normed, along[..., None], value=-1)
        return into.mul_(scale.to(out.dtype)), weight, None


class DecayedScores(torch.autograd.Function):
    """What each frame of a chunk hears of each before it: scores (B, T, T) times exp(decay_t - decay_s) for s <= t.

    `decay_BHT` is float32, cumulated log-decays; gives (B, H, T, T) in the type of the scores.
    """

    @staticmethod
    def forward(ctx: Any, scores_BTT: Tensor, decay_BHT: Tensor) -> Tensor:
        num_frames = decay_BHT.shape[-1]
        future_TT = decay_BHT.new_full((num_frames, num_frames), -torch.inf).triu_(1)
        between = (decay_BHT[..., :, None] - decay_BHT[..., None, :]).add_(future_TT).exp_()
        ctx.exact = decay_BHT.dtype
        between = between.to(scores_BTT.dtype)
        out = between * scores_BTT[:, None]
        ctx.save_for_backward(between, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor]:  # pyrefly: ignore
        (gradient,) = grad_outputs
        between, out = ctx.saved_tensors
        exact = ctx.exact
        scores = (gradient * between).sum(1)
        into = gradient * out
        return scores, into.sum(-1, dtype=exact) - into.sum(-2, dtype=exact)
