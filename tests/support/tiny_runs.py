"""Runs of a tiny network, and comparisons of two of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from snapshots import list_checkpoints
from torch import Tensor

from datasets.schema.splits import SplitConfig
from wm.checkpoints.reader import load_resume
from wm.config.model_config import ModelConfig
from wm.config.run_config import (
    CheckpointConfig,
    DivergenceConfig,
    EvalConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.trainer import TrainResult, train
from wm.training.validation import Row

BATCH, S = 8, 16
STEP = BATCH * S
"""Targets of one update."""


def tiny_run(corpus: Path, out: Path) -> RunConfig:
    """A run of ten updates of a tiny network, with a checkpoint after each."""
    return RunConfig(
        train_corpus=corpus,
        out=out,
        precision="fp32",
        split=SplitConfig(test_fraction=0.0, validation_fraction=0.4),
        log_every_s=0.0,
        checkpoint=CheckpointConfig(every_s=0.0, keep_last=1_000),
        divergence=DivergenceConfig(action="stop"),
        model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"),
        objective=ObjectiveConfig(sequence_frames=S),
        optimizer=OptimizerConfig(total_targets=10 * STEP, batch_size=BATCH, learning_rate=3e-3, warmup_targets=STEP),
        eval=EvalConfig(contexts=(5,), num_targets=60, validation_targets=20, every_targets=4 * STEP, num_dreams=0),
    )


def run(config: RunConfig, resume: Path | None = None, rows: list[Row] | None = None) -> TrainResult:
    """Train in this process; validation rows are appended to `rows`."""
    of_config = Run(config)
    of_config.claim()
    reported = [] if rows is None else rows
    return train(of_config, open_data(config), reported.extend, resume)


def weights(checkpoint: Path | None) -> dict[str, Tensor]:
    """Weights by name."""
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def checkpoints(config: RunConfig) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return list_checkpoints(config.out / "checkpoints")


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Compare bit for bit."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name}: {(tensor - second[name]).abs().max()}"


def optimizer_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Moments and momenta by part, parameter and name."""
    return {
        f"{part}.{number}.{name}": tensor
        for part, state in enumerate(load_resume(checkpoint)["optimizer"]["parts"])
        for number, moments in state["state"].items()
        for name, tensor in moments.items()
    }


def losses(config: RunConfig) -> list[float]:
    """Losses of a run's progress lines."""
    return [row["loss"] for row in read_log(config.out) if row["kind"] == "train"]


def with_targets(config: RunConfig, num_updates: int) -> RunConfig:
    """The same run with about this many updates."""
    return replace(config, optimizer=replace(config.optimizer, total_targets=num_updates * STEP))
