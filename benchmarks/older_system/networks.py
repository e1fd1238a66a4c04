"""The networks of the older system's recipe (`older_system/recipe.py`): plain torch, fp32.

Shape legend: B = batch, T = frames, P = players (2), C = channels, H = heads, D = head width, N = state size.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import BINARY, CONTINUOUS_SCALES, EMBEDDINGS, NUM_CONTROLLER, STAGE_EMBEDDING
from wm.model.heads import NUM_OUTPUTS

NUMBERS = (*CONTINUOUS_SCALES, *BINARY)

Window = dict[str, Tensor]
"""numbers float32 (B, K, P, 15), indices int64 (B, K, P, 8), controllers float32 (B, K + 1, 26), stage int64 (B,);
of a training sample also targets: true_numbers (B, P, 12), true_binaries (B, P, 3), true_indices (B, P, 8)."""


class FrameFeatures(nn.Module):
    """A window's frames as one vector each: numbers, embeddings, controllers, stage."""

    width = (
        NUM_PLAYERS * (len(NUMBERS) + NUM_CONTROLLER + sum(width for _, width in EMBEDDINGS.values()))
        + STAGE_EMBEDDING[1]
    )

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size, width in EMBEDDINGS.values())
        self.stage = nn.Embedding(*STAGE_EMBEDDING)

    def forward(self, window: Window) -> Tensor:
        """(B, K, width)."""
        embedded = [table(window["indices"][..., place]) for place, table in enumerate(self.embeddings)]
        players = torch.cat([window["numbers"], *embedded], dim=-1).flatten(2)
        num_frames = players.shape[1]
        stage = self.stage(window["stage"])[:, None].expand(-1, num_frames, -1)
        return torch.cat([players, window["controllers"][:, :num_frames], stage], dim=-1)


class OlderMixer(nn.Module):
    """A Mamba-2 mixer (Dao and Gu 2024) as plain torch has it: `nn.Conv1d`, and the scan's quadratic form."""

    def __init__(self, d_model: int, d_state: int = 64, headdim: int = 64, expand: int = 2, d_conv: int = 4) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.headdim = expand * d_model, d_state, headdim
        self.num_heads = self.d_inner // headdim
        channels = self.d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + channels + self.num_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1)
        step = torch.exp(torch.rand(self.num_heads) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = nn.RMSNorm(self.d_inner, eps=1e-5)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, u_BTC: Tensor) -> Tensor:
        """(B, T, d_model) -> the same shape."""
        z, xbc, dt = self.in_proj(u_BTC).split([self.d_inner, self.d_inner + 2 * self.d_state, self.num_heads], dim=-1)
        xbc = F.silu(self.conv1d(xbc.transpose(1, 2))[..., : u_BTC.shape[1]].transpose(1, 2))
        x, b, c = xbc.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.num_heads, self.headdim))
        y = quadratic_scan(x, F.softplus(dt + self.dt_bias), -self.A_log.exp(), b, c) + self.D[:, None] * x
        return self.out_proj(self.norm(y.flatten(-2) * F.silu(z)))


def quadratic_scan(x_BTHD: Tensor, dt_BTH: Tensor, a_H: Tensor, b_BTN: Tensor, c_BTN: Tensor) -> Tensor:
    """y_t = C_t h_t, h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, as one masked product (Dao and Gu 2024, section 3)."""
    decay_BHT = (dt_BTH * a_H).transpose(1, 2).cumsum(-1)
    between_BHTT = decay_BHT[..., :, None] - decay_BHT[..., None, :]
    future_TT = torch.ones_like(between_BHTT[0, 0], dtype=torch.bool).triu(1)
    mixed_BHTT = between_BHTT.masked_fill(future_TT, -torch.inf).exp() * (c_BTN @ b_BTN.transpose(1, 2))[:, None]
    return (mixed_BHTT @ (x_BTHD * dt_BTH[..., None]).transpose(1, 2)).transpose(1, 2)


class OlderMamba2(nn.Module):
    """Pre-norm residual blocks; the last frame's output plus the next controllers give the heads."""

    def __init__(self, d_model: int = 384, num_layers: int = 4) -> None:
        super().__init__()
        self.features = FrameFeatures()
        self.input = nn.Linear(FrameFeatures.width, d_model)
        self.norms = nn.ModuleList(nn.RMSNorm(d_model, eps=1e-5) for _ in range(num_layers))
        self.mixers = nn.ModuleList(OlderMixer(d_model) for _ in range(num_layers))
        self.final_norm = nn.RMSNorm(d_model, eps=1e-5)
        self.controller = nn.Linear(NUM_PLAYERS * NUM_CONTROLLER, d_model)
        self.heads = nn.Linear(d_model, NUM_PLAYERS * NUM_OUTPUTS)

    def forward(self, window: Window) -> Tensor:
        """(B, P, NUM_OUTPUTS)."""
        x_BTC = self.input(self.features(window))
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x_BTC = x_BTC + mixer(norm(x_BTC))
        hidden = self.final_norm(x_BTC)[:, -1] + self.controller(window["controllers"][:, -1])
        return self.heads(hidden).unflatten(-1, (NUM_PLAYERS, NUM_OUTPUTS))


class OlderMLP(nn.Module):
    """K frames and the next controllers, stacked, through two hidden layers."""

    def __init__(self, context_frames: int, hidden: tuple[int, ...] = (512, 256)) -> None:
        super().__init__()
        self.features = FrameFeatures()
        widths = (context_frames * FrameFeatures.width + NUM_PLAYERS * NUM_CONTROLLER, *hidden)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], NUM_PLAYERS * NUM_OUTPUTS))

    def forward(self, window: Window) -> Tensor:
        """(B, P, NUM_OUTPUTS)."""
        stacked = torch.cat([self.features(window).flatten(1), window["controllers"][:, -1]], dim=-1)
        return self.layers(stacked).unflatten(-1, (NUM_PLAYERS, NUM_OUTPUTS))
