"""Mamba-2 blocks with one state dict and two scan backends: plain torch, and Triton kernels.

The kernels are those of `wm.model.ops.fused_ops` for sequences of one chunk, and mamba-ssm's, if installed, for others.

Parameter names are those of `mamba_ssm.modules.mamba2.Mamba2`, which loads them strictly, both ways.
Shape legend: B = batch, T = frames, C = channels, H = heads, D = head width, N = state size.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.runtime.errors import UserError
from wm.config.model_config import ScanBackend
from wm.model.ops import fused_ops, ssd, ssd_triton
from wm.model.ops.aligned import aligned_linear
from wm.model.ops.autograd_ops import CausalConvolution, RMSNorm


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockState:
    """Recurrent state of a block; zero at the start of every window."""

    conv: Tensor
    """(B, d_conv - 1, C), the last inputs of the convolution."""
    ssm: Tensor
    """float32 (B, H, D, N)."""
    is_scratch: bool = False
    """Whether a step may overwrite `ssm`: nobody else sees this state."""


class Mamba2Mixer(nn.Module):
    """One Mamba-2 mixer (Dao and Gu 2024, section 7), one group of B and C."""

    def __init__(
        self, d_model: int, *, d_state: int, headdim: int, expand: int, d_conv: int, scan_backend: ScanBackend
    ) -> None:
        super().__init__()
        self.d_inner = expand * d_model
        self.d_state, self.headdim, self.d_conv = d_state, headdim, d_conv
        self.num_heads = self.d_inner // headdim
        self.scan_backend = scan_backend
        channels = self.d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + channels + self.num_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        # As mamba-ssm: dt_bias is the inverse softplus of a log-uniform step in [1e-3, 0.1]; A is uniform in [1, 16].
        step = torch.exp(torch.rand(self.num_heads) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = OutputNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(
        self, u_BTC: Tensor, state: BlockState | None = None, return_state: bool = False
    ) -> tuple[Tensor, BlockState | None]:
        """
        Args:
            u_BTC: (B, T, d_model).
            state: initial state; None is zero.
        Returns:
            (B, T, d_model), and the final state if `return_state`.
        """
        if state is not None and return_state and u_BTC.shape[1] == 1:
            return self.step(u_BTC, state)
        channels = self.d_inner + 2 * self.d_state
        projected = aligned_linear(u_BTC, self.in_proj.weight)
        z, xbc, dt = projected.split([self.d_inner, channels, self.num_heads], dim=-1)
        dt = F.softplus(dt.float() + self.dt_bias)
        a = -self.A_log.float().exp()
        use_triton = _use_triton(self.scan_backend, u_BTC.device)
        is_chunk = fused_ops.takes_chunk(u_BTC.shape[1], self.headdim, self.d_state)
        if use_triton and is_chunk and state is None and not return_state:
            assert self.conv1d.bias is not None
            xbc = fused_ops.conv_silu(xbc, self.conv1d.weight[:, 0], self.conv1d.bias)
            y = fused_ops.chunk_scan(xbc, dt, a, self.D.float(), z, self.headdim)
            return self.out_proj(self.norm(y)), None
        xbc, conv_state = self._convolve(xbc, None if state is None else state.conv, return_state)
        x, b, c = F.silu(xbc).split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.num_heads, self.headdim))
        scan = ssd_triton.scan if use_triton and ssd_triton.available() else ssd.scan
        y, ssm_state = scan(x, dt, a, b, c, None if state is None else state.ssm, return_state)
        y = (y + self.D.to(x.dtype)[:, None] * x).flatten(-2)
        out = self.out_proj(self.norm(y * F.silu(z)))
        if not return_state:
            return out, None
        assert conv_state is not None and ssm_state is not None
        return out, BlockState(conv=conv_state, ssm=ssm_state)

    def step(self, u_B1C: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        """`forward` of a single frame, with fewer operations (`wm.model.ops.ssd.step`)."""
        channels = self.d_inner + 2 * self.d_state
        projected = aligned_linear(u_B1C, self.in_proj.weight)
        z, xbc, dt = projected.split([self.d_inner, channels, self.num_heads], dim=-1)
        window = torch.cat([state.conv.to(xbc.dtype), xbc], dim=1)
        assert self.conv1d.bias is not None
        weight_TC, bias = self.conv1d.weight[:, 0].t().to(xbc.dtype), self.conv1d.bias.to(xbc.dtype)
        x, b, c = F.silu((window * weight_TC).sum(1) + bias).split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.num_heads, self.headdim))
        dt_BH = F.softplus(dt[:, 0].float() + self.dt_bias)
        a_H = -self.A_log.float().exp()
        y, ssm_state = ssd.step(x, dt_BH, a_H, b, c, state.ssm, in_place=state.is_scratch)
        y = (y + self.D.to(x.dtype)[:, None] * x).flatten(-2)[:, None]
        following = BlockState(conv=window[:, 1:], ssm=ssm_state, is_scratch=state.is_scratch)
        return self.out_proj(self.norm(y * F.silu(z))), following

    def _convolve(self, xbc: Tensor, state: Tensor | None, return_state: bool) -> tuple[Tensor, Tensor | None]:
        """The causal convolution, and its final state if `return_state`."""
        width = self.d_conv - 1
        padded = F.pad(xbc, (0, 0, width, 0)) if state is None else torch.cat([state.to(xbc.dtype), xbc], dim=1)
        weight_TC = self.conv1d.weight[:, 0].t().to(xbc.dtype).contiguous()
        assert self.conv1d.bias is not None
        out = CausalConvolution.apply(padded, weight_TC, self.conv1d.bias.to(xbc.dtype))
        return out, padded[:, -width:] if return_state else None


class OutputNorm(nn.Module):
    """RMSNorm of the gated output: mamba-ssm's RMSNormGated with norm_before_gate=False, after the gate."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, y: Tensor) -> Tensor:
        return RMSNorm.apply(y, self.weight, self.eps)


class Mamba2Backbone(nn.Module):
    """Pre-norm residual Mamba-2 blocks and a final norm."""

    def __init__(self, d_model: int, num_layers: int, **mixer) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(d_model, eps=1e-5) for _ in range(num_layers))
        self.mixers = nn.ModuleList(Mamba2Mixer(d_model, **mixer) for _ in range(num_layers))
        self.final_norm = nn.RMSNorm(d_model, eps=1e-5)
        for block in self.mixers:
            assert isinstance(block, Mamba2Mixer)
            # Residual branches are initialized smaller in deeper networks (GPT-2; mamba-ssm does the same).
            nn.init.kaiming_uniform_(block.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                block.out_proj.weight /= math.sqrt(num_layers)

    def forward(
        self, x_BTC: Tensor, states: tuple[BlockState, ...] | None = None, return_state: bool = False
    ) -> tuple[Tensor, tuple[BlockState, ...] | None]:
        """
        Args:
            x_BTC: (B, T, d_model).
            states: initial states, one per block; None is zero.
        """
        final_states: list[BlockState] = []
        for layer, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            y, state = mixer(norm(x_BTC), None if states is None else states[layer], return_state)
            x_BTC = x_BTC + y
            if state is not None:
                final_states.append(state)
        return self.final_norm(x_BTC), tuple(final_states) if return_state else None


def _use_triton(backend: ScanBackend, device: torch.device) -> bool:
    """Whether to run the kernels. `auto` stands for torch here: `wm.model.scan_backend` replaces it if they work."""
    if backend == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("model.scan_backend is triton, which needs CUDA; set scan_backend: auto, or use a GPU")
    return backend == "triton"
