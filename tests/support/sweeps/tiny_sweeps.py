"""Sweeps of tiny networks, whose trials take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tune.config import SweepConfig
from wm.config.typed_yaml import from_plain
from wm.runs.run_log import read_log

TOTAL = 512
"""Targets of a trial: 8 updates, with a validation after every second."""
ENDLESS = 10_000_000
"""Targets of a trial that something has to stop."""


def tiny_sweep(corpus: Path, out: Path, total_targets: int = TOTAL, **content: Any) -> SweepConfig:
    """A sweep of two learning rates without early stopping, unless the content says otherwise.

    Args:
        content: fields of the sweep as in its YAML; those of `base` are added to the usual ones.
    """
    base = {
        "train_corpus": str(corpus),
        "num_threads": 1,
        "precision": "fp32",
        "split": {"test_fraction": 0.0, "validation_fraction": 0.4},
        "model": {"d_model": 32, "headdim": 32, "d_state": 16, "num_layers": 1},
        "objective": {"sequence_frames": 16},
        "optimizer": {"total_targets": total_targets, "batch_size": 4, "warmup_targets": 64},
        "eval": {
            "contexts": [1, 5],
            "num_targets": 60,
            "validation_targets": 30,
            "every_targets": 128,
            "num_dreams": 8,
        },
        "log_every_s": 0.2,
    }
    usual = {"out": str(out), "axes": {"optimizer.learning_rate": [1e-2, 1e-3]}, "asha": {"enabled": False}}
    return from_plain(usual | content | {"base": base | content.get("base", {})}, SweepConfig, "sweep.yaml")


def seen_by(folder: Path) -> int:
    """Targets seen by a trial, by its log."""
    return max((row["targets_seen"] for row in read_log(folder)), default=0)
