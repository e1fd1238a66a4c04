"""The memory-bound operators of a Mamba-2 block as autograd functions with hand-written backward passes.

Plain autograd makes about twice as many passes over memory. Guarded by `benchmarks/train_step.py`.
Shape legend: B = batch, T = frames, C = channels, H = heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class CausalConvolution(torch.autograd.Function):
    """Causal depthwise convolution over time as shifted multiply-adds; faster than nn.Conv1d on a CPU.

    Input (B, taps - 1 + T, C), padded with the previous frames; weight (taps, C); bias (C,). Output (B, T, C).
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
        (grad_BTC,) = grad_outputs
        padded_BTC, weight_TC = ctx.saved_tensors
        num_taps, num_frames = len(weight_TC), grad_BTC.shape[1]
        grad_padded = torch.zeros_like(padded_BTC)
        grad_weights = []
        for tap in range(num_taps):
            part = slice(tap, tap + num_frames)
            grad_padded[:, part].addcmul_(grad_BTC, weight_TC[tap])
            grad_weights.append((grad_BTC * padded_BTC[:, part]).sum((0, 1)))
        return grad_padded, torch.stack(grad_weights), grad_BTC.sum((0, 1))


class RMSNorm(torch.autograd.Function):
    """x * weight / sqrt(mean(x^2) + eps) over the last dimension, computed in float32 or wider.

    In bf16 a rounded scale would change all channels of a frame by the same factor, up to 0.4 %, which does not average
    out. mamba-ssm's kernels keep it in float32 too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_() / x.shape[-1]
        scale = mean_square.add_(eps).rsqrt_()
        if x.dtype != wide:
            ctx.save_for_backward(x, weight_C, scale)
            return x.to(wide).mul_(scale).mul_(weight_C).to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, weight_C, scale)
        return normed * weight_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None]:  # pyrefly: ignore
        (grad,) = grad_outputs
        normed, weight_C, scale = ctx.saved_tensors
        if normed.dtype != scale.dtype:
            normed = normed.to(scale.dtype).mul_(scale)
        wide_grad = grad.to(scale.dtype)
        product = wide_grad * normed
        grad_weight = product.flatten(0, -2).sum(0, dtype=weight_C.dtype)
        projection = product @ weight_C.to(scale.dtype) / grad.shape[-1]
        grad_x = wide_grad * weight_C
        grad_x.addcmul_(normed, projection[..., None], value=-1)
        return grad_x.mul_(scale).to(grad.dtype), grad_weight, None


class DecayedScores(torch.autograd.Function):
    """Decay-masked intra-chunk scores: scores (B, T, T) times exp(decay_t - decay_s) for s <= t, else 0.

    `decay_BHT` holds cumulative log-decays, float32. Output (B, H, T, T) in the dtype of the scores.
    """

    @staticmethod
    def forward(ctx: Any, scores_BTT: Tensor, decay_BHT: Tensor) -> Tensor:
        num_frames = decay_BHT.shape[-1]
        causal_mask_TT = decay_BHT.new_full((num_frames, num_frames), -torch.inf).triu_(1)
        decay_factors = (decay_BHT[..., :, None] - decay_BHT[..., None, :]).add_(causal_mask_TT).exp_()
        ctx.decay_dtype = decay_BHT.dtype
        decay_factors = decay_factors.to(scores_BTT.dtype)
        out = decay_factors * scores_BTT[:, None]
        ctx.save_for_backward(decay_factors, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor]:  # pyrefly: ignore
        (grad,) = grad_outputs
        decay_factors, out = ctx.saved_tensors
        wide = ctx.decay_dtype
        grad_scores = (grad * decay_factors).sum(1)
        grad_exponent = grad * out
        return grad_scores, grad_exponent.sum(-1, dtype=wide) - grad_exponent.sum(-2, dtype=wide)
