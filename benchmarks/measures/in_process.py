"""Training in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import from_plain, load_yaml, to_plain, with_overrides
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training.device import set_num_threads
from wm.training.trainer import TrainResult, train

TINY_NETWORK = (
    "--compile=never", "--model.d_model=32", "--model.headdim=16", "--model.d_state=16", "--model.num_layers=1",
    "--optimizer.batch-size=4", "--objective.sequence-frames=16",
)  # fmt: skip
"""Options that make any Mamba-2 config quick on a CPU."""


def config_with(name: str, options: Sequence[Any]) -> RunConfig:
    """A shipped config with `--dotted.name value` options, on the GPU if there is one."""
    plain = to_plain(load_yaml(SHIPPED_CONFIGS / f"{name}.yaml", RunConfig))
    gpu = ["--use-gpu"] if torch.cuda.is_available() else ["--no-use-gpu"]
    return from_plain(with_overrides(plain, RunConfig, [str(word) for word in [*gpu, *options]]), RunConfig, name)


def train_in_process(config: RunConfig, on_validation: Callable[[list[Any]], None] = lambda _rows: None) -> TrainResult:
    """Train a new run to its end.

    Args:
        on_validation: receives the rows of each validation.
    """
    set_num_threads(config, 1)
    run = Run(config)
    run.claim()
    return train(run, open_data(config), on_validation, None)


def folder_options(corpus: Path, out: Path) -> list[Any]:
    """Train on all games of a corpus."""
    return ["--train-corpus", corpus.resolve(), "--train-split", "all", "--out", out]
