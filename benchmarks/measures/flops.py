"""Floating-point operations of training, counted on paper: what a share of the hardware's peak is a share of."""

from __future__ import annotations

import itertools

from datasets.schema.columns import NUM_PLAYERS
from wm.config.model_config import ModelConfig
from wm.config.run_config import RunConfig
from wm.model.derived_features import DerivedFeatures
from wm.model.encoding import CONTROLLER_LAYOUT, FRAME_LAYOUT, NUM_CONTROLLER_FEATURES, layout_width
from wm.model.heads import NUM_OUTPUTS
from wm.model.motion.candidates import MOTION, MOTION_LAYOUT, NUM_MODES
from wm.model.state_fields import state_fields

CHUNK_FRAMES = 64
"""Frames within which the scan is a masked matrix product, in both cores."""


def flops_per_target(config: RunConfig) -> float:
    """Operations of forward and backward for one prediction.

    A multiply-add is two operations, and the backward pass of a product is two products of its size (gradients of
    input and weights), hence 6 for each weight and frame, as in Kaplan et al. 2020, section 2.1. Beside the weights'
    products: d_conv multiply-adds for each channel of the depthwise convolution, and the scan (Dao and Gu 2024,
    section 6). Within a chunk of Q frames a frame looks at (Q + 1) / 2 others on average, itself included, each
    d_state multiply-adds for the score and d_inner to apply it; both cores compute the masked half as well, and that
    counts as waste. Sequences of more than a chunk also pass a state: 2 d_inner d_state. Look-ups of embeddings,
    norms, losses and the optimizer count nothing.

    A network with encoding 3 or 4 makes a pass for each player.

    Under `sequence` a prediction costs one frame, under `window` all K, of which only the last meets the heads.
    """
    if config.model.kind == "mlp":
        return 6.0 * _mlp_weights(config)
    num_frames = config.objective.example_frames - 1
    frames_per_target = num_frames / config.objective.predictions
    model = config.model
    passes = model.passes_per_frame
    heads = model.d_model * (NUM_PLAYERS // passes * _num_outputs(model) + NUM_CONTROLLER_FEATURES)
    first = model.d_model * _input_width(model, 1, fourier=True)
    return 6.0 * passes * (frames_per_target * (first + model.num_layers * _block(model, num_frames)) + heads)


def _mlp_weights(config: RunConfig) -> int:
    """Multiply-adds for one prediction."""
    stacked = _input_width(config.model, config.objective.context_frames, fourier=False)
    passes = config.model.passes_per_frame
    widths = (stacked, *config.model.hidden_sizes, NUM_PLAYERS // passes * _num_outputs(config.model))
    return passes * sum(a * b for a, b in itertools.pairwise(widths))


def _input_width(model: ModelConfig, num_frames: int, *, fourier: bool) -> int:
    derived = DerivedFeatures(model.encoding, fourier=fourier).layout
    frame_layout = (*FRAME_LAYOUT, *state_fields(model).layout)
    motion = MOTION_LAYOUT if model.chooses_motion else ()
    return layout_width((*num_frames * frame_layout, *CONTROLLER_LAYOUT, *derived, *motion))


def _num_outputs(model: ModelConfig) -> int:
    """Outputs of the heads per player."""
    return NUM_OUTPUTS + sum(state_fields(model).sizes) + len(MOTION) * NUM_MODES * model.chooses_motion


def _block(model: ModelConfig, num_frames: int) -> float:
    """Multiply-adds of one Mamba-2 block for a frame."""
    d_inner = model.expand * model.d_model
    channels = d_inner + 2 * model.d_state
    weights = model.d_model * (d_inner + channels + d_inner // model.headdim) + d_inner * model.d_model
    looked_at = (min(num_frames, CHUNK_FRAMES) + 1) / 2
    passing = 2 * d_inner * model.d_state if num_frames > CHUNK_FRAMES else 0
    return weights + channels * model.d_conv + looked_at * (model.d_state + d_inner) + passing
