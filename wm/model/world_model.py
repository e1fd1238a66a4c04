"""The world model: context frames and the controllers of the next frame in, the next frame out.

Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.schema.columns import NUM_PLAYERS
from wm.config.model_config import ModelConfig
from wm.model.derived_features import DerivedFeatures
from wm.model.encoding import (
    CONTROLLER_LAYOUT,
    FRAME_LAYOUT,
    FrameEncoder,
    Frames,
    Layout,
    controllers,
    layout_width,
    positions,
    swapped_players,
)
from wm.model.heads import Heads, Prediction, displacement_prior
from wm.model.mamba2 import BlockState, Mamba2Backbone
from wm.model.motion.candidates import MOTION_LAYOUT, Physics, motion_features
from wm.model.ops.aligned import aligned_linear
from wm.model.state_fields import state_features, state_fields


class PlayerLinear(nn.Linear):
    """A linear layer for features of both players, from the point of view of each player or of both at once.

    From a player's point of view the features of that player come first. The layer permutes its weights rather than
    the features, which are many more.
    """

    def __init__(self, layout: Layout, width: int, *, shared: bool, bias: bool = True) -> None:
        """
        Args:
            layout: of the features.
            shared: apply the same weights from each player's point of view.
        """
        super().__init__(layout_width(layout), width, bias=bias)
        order = torch.tensor(swapped_players(layout)) if shared else None
        self.register_buffer("swapped_order", order, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, P, width) if shared, else (B, T, width)."""
        if self.swapped_order is None:
            return aligned_linear(input, self.weight, self.bias)
        if input.numel() < self.weight.numel() and not torch.is_grad_enabled():  # few frames: then features are fewer
            both = torch.stack([input, input.index_select(-1, self.swapped_order)], dim=-2)
            return aligned_linear(both, self.weight, self.bias)
        weight = torch.cat([self.weight, self.weight.index_select(1, self.swapped_order)])
        bias = None if self.bias is None else self.bias.repeat(NUM_PLAYERS)
        return aligned_linear(input, weight, bias).unflatten(-1, (NUM_PLAYERS, self.out_features))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldState:
    """Recurrent state between steps."""

    blocks: tuple[BlockState, ...]
    """From encoding 3 on, rows 2b and 2b + 1 of a block's state belong to players 0 and 1 of row b."""
    position: Tensor
    """(B, 1, P, 2), positions in the last frame, game units."""
    motion: Tensor | None = None
    """(B, 2, P, 7), `wm.model.motion.candidates.MOTION` of the last two frames; None without candidates."""


class Mamba2WorldModel(nn.Module):
    """Autoregressive Mamba-2 over frames: every position predicts the next frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shared = config.encoding >= 3
        self.encoder = FrameEncoder()
        self.fields = state_fields(config)
        self.derived = DerivedFeatures(config.encoding, fourier=True)
        self.physics = Physics() if config.chooses_motion else None
        motion_layout = MOTION_LAYOUT if config.chooses_motion else ()
        layout = (*FRAME_LAYOUT, *self.fields.layout, *CONTROLLER_LAYOUT, *self.derived.layout, *motion_layout)
        self.input = PlayerLinear(layout, config.d_model, shared=self.shared)
        self.backbone = Mamba2Backbone(
            config.d_model,
            config.num_layers,
            d_state=config.d_state,
            headdim=config.headdim,
            expand=config.expand,
            d_conv=config.d_conv,
            scan_backend=config.scan_backend,
        )
        self.controller = PlayerLinear(CONTROLLER_LAYOUT, config.d_model, shared=self.shared, bias=False)
        self.heads = Heads(
            config.d_model, shared=self.shared, use_age_bias=True, fields=self.fields, physics=config.chooses_motion
        )

    def forward(self, frames: Frames, last_only: bool = False) -> Prediction:
        """Predict frames 1 .. T-1, or only the last, from zero state.

        Args:
            frames: T frames; of the last one only the controllers are inputs.
        """
        last = frames.num_frames - 1
        prediction, _ = self.observe(frames.slice(0, last), controllers(frames.slice(1, last + 1)), last_only=last_only)
        return prediction

    def observe(
        self,
        context: Frames,
        controllers_BTC: Tensor,
        state: WorldState | None = None,
        *,
        return_state: bool = False,
        last_only: bool = False,
    ) -> tuple[Prediction, WorldState | None]:
        """Predict the frame after each context frame, starting from a state.

        Args:
            context: T frames.
            controllers_BTC: (B, T, 26), controllers of the following frames.
            state: recurrent state before the first frame; None is zero.
        """
        prior = displacement_prior(context, None if state is None else state.position, stops_in_hitlag=self.shared)
        derived = self.derived(context, controllers_BTC, prior)
        features = [self.encoder(context), *state_features(self.fields, context), controllers_BTC, derived]
        candidates, motion = None, None
        if self.physics is not None:
            candidates, motion = self.physics(context, controllers_BTC, None if state is None else state.motion)
            features.append(motion_features(candidates, context))
        inputs = self.input(torch.cat(features, dim=-1)).float()
        if self.shared:
            inputs = inputs.transpose(1, 2).flatten(0, 1)  # each player's point of view is a sequence
        hidden, blocks = self.backbone(inputs, None if state is None else state.blocks, return_state)
        final_state = None
        if return_state:
            assert blocks is not None
            final_state = WorldState(blocks=blocks, position=positions(context)[:, -1:], motion=motion)
        if last_only:
            hidden, controllers_BTC, prior = hidden[:, -1:], controllers_BTC[:, -1:], prior[:, -1:]
            context = context.last
            candidates = None if candidates is None else candidates.since(-1)
        if self.shared:
            hidden = hidden.unflatten(0, (-1, NUM_PLAYERS)).transpose(1, 2)
        hidden = hidden + self.controller(controllers_BTC)
        return self.heads(hidden, context, prior, candidates), final_state

    def step(self, state: WorldState | None, frame: Frames, controllers_BTC: Tensor) -> tuple[Prediction, WorldState]:
        """One frame; equals the same position of a sequence pass. `controllers_BTC` is (B, 1, 26)."""
        prediction, final_state = self.observe(frame, controllers_BTC, state, return_state=True)
        assert final_state is not None
        return prediction, final_state


class MLPWorldModel(nn.Module):
    """MLP over K concatenated frames, as the older system's first model. It predicts one frame per window."""

    def __init__(self, config: ModelConfig, context_frames: int) -> None:
        super().__init__()
        self.context_frames = context_frames
        self.encoder = FrameEncoder()
        self.shared = shared = config.encoding >= 3
        self.fields = state_fields(config)
        self.derived = DerivedFeatures(config.encoding, fourier=False)
        frame_layout = (*FRAME_LAYOUT, *self.fields.layout)
        self.physics = Physics() if config.chooses_motion else None
        motion_layout = MOTION_LAYOUT if config.chooses_motion else ()
        layout = (*context_frames * frame_layout, *CONTROLLER_LAYOUT, *self.derived.layout, *motion_layout)
        first = PlayerLinear(layout, config.hidden_sizes[0], shared=shared)
        others = (nn.Linear(a, b) for a, b in itertools.pairwise(config.hidden_sizes))
        self.layers = nn.ModuleList([first, *others])
        # No bias of ages: the older system has none.
        self.heads = Heads(
            config.hidden_sizes[-1],
            shared=shared,
            use_age_bias=False,
            fields=self.fields,
            physics=config.chooses_motion,
        )

    def forward(self, frames: Frames, last_only: bool = True) -> Prediction:
        """Predict every frame that has context_frames frames before it: T - context_frames predictions."""
        assert last_only and frames.num_frames > self.context_frames
        last, first = frames.num_frames - 1, self.context_frames - 1
        context = frames.slice(0, last)
        encoded = torch.cat([self.encoder(context), *state_features(self.fields, context)], dim=-1)
        stacked = encoded.unfold(1, self.context_frames, 1).transpose(2, 3).flatten(2)
        newest = context.slice(first, last)
        prior = displacement_prior(context, stops_in_hitlag=self.shared)[:, first:]
        controllers_BTC = controllers(frames.slice(1, last + 1))
        following = controllers_BTC[:, first:]
        features = [stacked, following, self.derived(newest, following, prior)]
        candidates = None
        if self.physics is not None:
            candidates = self.physics(context, controllers_BTC, None)[0].since(first)
            features.append(motion_features(candidates, newest))
        hidden = torch.cat(features, dim=-1)
        for layer in self.layers:
            hidden = F.gelu(layer(hidden))
        return self.heads(hidden, newest, prior, candidates)


WorldModel = Mamba2WorldModel | MLPWorldModel


def build_model(config: ModelConfig, context_frames: int) -> WorldModel:
    """Build the network of a config; `context_frames` is the MLP's K."""
    if config.kind == "mlp":
        return MLPWorldModel(config, context_frames)
    return Mamba2WorldModel(config)


def num_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
