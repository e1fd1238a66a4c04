"""The world model: context frames and the controllers of the next frame in, the next frame out.

Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wm.config.model_config import ModelConfig
from wm.model.encoding import (
    NUM_CONTROLLER_FEATURES,
    NUM_FRAME_FEATURES,
    NUM_RELATIONS,
    NUM_WAVES,
    FrameEncoder,
    Frames,
    controllers,
    positions,
    relations,
    waves,
)
from wm.model.heads import Heads, Prediction, displacement_prior
from wm.model.mamba2 import BlockState, Mamba2Backbone

NUM_INPUTS = NUM_FRAME_FEATURES + NUM_CONTROLLER_FEATURES + NUM_RELATIONS + NUM_WAVES
"""What a Mamba-2 reads of a frame and of the controllers after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldState:
    """What the model remembers between steps; None of it at the start of a window."""

    blocks: tuple[BlockState, ...]
    position: Tensor
    """(B, 1, P, 2), of the last frame, game units."""


class Mamba2WorldModel(nn.Module):
    """Frames one after another through Mamba-2; every position predicts its next frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = FrameEncoder()
        self.input = nn.Linear(NUM_INPUTS, config.d_model)
        self.backbone = Mamba2Backbone(
            config.d_model,
            config.num_layers,
            d_state=config.d_state,
            headdim=config.headdim,
            expand=config.expand,
            d_conv=config.d_conv,
            scan_backend=config.scan_backend,
        )
        self.controller = nn.Linear(NUM_CONTROLLER_FEATURES, config.d_model, bias=False)
        self.heads = Heads(config.d_model, use_age_bias=True)

    def forward(self, frames: Frames, last_only: bool = False) -> Prediction:
        """Predict frames 1 .. T-1 (or only the last) from zero state.

        Args:
            frames: T frames; of the last one only the controllers are seen.
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
        """Go on from a state over some frames.

        Args:
            context: T frames.
            controllers_BTC: (B, T, 26), the controllers of the frame after each of them.
        """
        prior = displacement_prior(context, None if state is None else state.position)
        features = [
            self.encoder(context), controllers_BTC, relations(context, controllers_BTC), waves(context, prior)
        ]  # fmt: skip
        hidden, blocks = self.backbone(
            self.input(torch.cat(features, dim=-1)).float(), None if state is None else state.blocks, return_state
        )
        after = None
        if return_state:
            assert blocks is not None
            after = WorldState(blocks=blocks, position=positions(context)[:, -1:])
        if last_only:
            hidden, controllers_BTC, prior = hidden[:, -1:], controllers_BTC[:, -1:], prior[:, -1:]
            context = context.slice(context.num_frames - 1, context.num_frames)
        hidden = hidden + self.controller(controllers_BTC)
        return self.heads(hidden, context, prior), after

    def step(self, state: WorldState | None, frame: Frames, controllers_BTC: Tensor) -> tuple[Prediction, WorldState]:
        """One frame: equal to the same position of a sequence pass. `controllers_BTC` is (B, 1, 26)."""
        prediction, after = self.observe(frame, controllers_BTC, state, return_state=True)
        assert after is not None
        return prediction, after


class MLPWorldModel(nn.Module):
    """K frames stacked, two hidden layers: the yardstick's first model. It predicts one frame a window."""

    def __init__(self, config: ModelConfig, context_frames: int) -> None:
        super().__init__()
        self.context_frames = context_frames
        self.encoder = FrameEncoder()
        widths = (context_frames * NUM_FRAME_FEATURES + NUM_CONTROLLER_FEATURES + NUM_RELATIONS, *config.hidden_sizes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.heads = Heads(config.hidden_sizes[-1], use_age_bias=False)  # as the yardstick's

    def forward(self, frames: Frames, last_only: bool = True) -> Prediction:
        """Predict each frame that has context_frames before it: one, or as many as windows fit into the frames."""
        assert last_only and frames.num_frames > self.context_frames
        last, first = frames.num_frames - 1, self.context_frames - 1
        context = frames.slice(0, last)
        stacked = self.encoder(context).unfold(1, self.context_frames, 1).transpose(2, 3).flatten(2)
        newest, prior = context.slice(first, last), displacement_prior(context)[:, first:]
        following = controllers(frames.slice(first + 1, last + 1))
        hidden = torch.cat([stacked, following, relations(newest, following)], dim=-1)
        for layer in self.layers:
            hidden = F.gelu(layer(hidden))
        return self.heads(hidden, newest, prior)


WorldModel = Mamba2WorldModel | MLPWorldModel


def build_model(config: ModelConfig, context_frames: int) -> WorldModel:
    """The network of a config; `context_frames` is the MLP's K."""
    if config.kind == "mlp":
        return MLPWorldModel(config, context_frames)
    return Mamba2WorldModel(config)


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in model.parameters())
