"""Parameters and FLOPs of a run, counted by torch on meta tensors, without computing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.config.run_config import Context, RunConfig
from wm.model.encoding import Frames
from wm.model.world_model import build_model, num_parameters

TRAIN_FLOPS_RATIO = 3
"""Training FLOPs per forward FLOP: a backward pass needs twice the FLOPs of the forward pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of a run, independent of the hardware."""

    num_parameters: int
    """Trainable parameters."""
    train_flops_per_target: float
    """Matrix multiplications of training on one target; a multiply-add counts as 2 FLOPs."""
    window_flops: dict[Context, float]
    """Context -> matrix multiplications of predicting one frame from its last K frames, from zero state; `stream`: from
    the carried state and its last frame, what a frame costs when a Mamba-2 plays."""


def cost_of(config: RunConfig) -> Cost:
    """Count a run's parameters and FLOPs."""
    objective = config.objective
    # Two passes, and a sequence whose end is a dream, are passed forward once more.
    ratio = TRAIN_FLOPS_RATIO + objective.rollout.two_passes.share + objective.rollout.unroll.share
    forward = _forward_flops(config, objective.example_frames, last_only=objective.kind == "window")
    with torch.device("meta"):
        parameters = num_parameters(build_model(config.model, objective.context_frames))
    return Cost(
        num_parameters=parameters,
        train_flops_per_target=ratio * forward / objective.predictions,
        window_flops={
            k: _forward_flops(config, 2 if k == "stream" else k + 1, last_only=True) for k in config.contexts
        },
    )


def carries_state(config: RunConfig) -> bool:
    """Whether the network plays with its state carried from frame to frame, so that a frame costs the same for every K.

    One that was trained on windows alone sees its K frames anew for every frame, as an MLP does.
    """
    return config.model.kind == "mamba2" and config.objective.kind == "sequence"


def play_flops(config: RunConfig, context: Context) -> float:
    """Matrix multiplications of one frame while the network plays."""
    return _forward_flops(config, play_frames(config, context), last_only=True)


def play_frames(config: RunConfig, context: Context) -> int:
    """Frames that pass through the network for one frame of play, the predicted one included."""
    return 2 if carries_state(config) or context == "stream" else context + 1


def _forward_flops(config: RunConfig, num_frames: int, *, last_only: bool) -> float:
    with torch.device("meta"), torch.no_grad():
        model = build_model(replace(config.model, scan_backend="torch"), config.objective.context_frames)
        frames = Frames(
            floats=torch.zeros(1, num_frames, NUM_PLAYERS, len(FLOAT_COLUMNS)),
            codes=torch.zeros(1, num_frames, NUM_PLAYERS, len(CODE_COLUMNS), dtype=torch.int16),
            game=torch.zeros(1, len(GAME_COLUMNS), dtype=torch.int16),
        )
        with FlopCounterMode(display=False) as counter:
            model(frames, last_only=last_only)
    return float(counter.get_total_flops())
