"""Checkpoints of known content, and how tests look at a folder of checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.model_config import ModelConfig
from wm.config.run_config import RunConfig
from wm.model.world_model import WorldModel

CONFIG = RunConfig(model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"))


def snapshot(targets_seen: int, *, change_acc: float = 0.0, num_numbers: int = 8) -> Snapshot:
    """A state in which every number is the targets seen."""
    row = {
        "context": 10,
        "num_targets": 20,
        "targets_seen": targets_seen,
        "change_acc": change_acc,
    }
    return Snapshot(
        model_state={"weight": torch.full((num_numbers,), float(targets_seen))},
        config=CONFIG,
        meta={"targets_seen": targets_seen, "metrics": [row]},
        resume={"optimizer": {0: {"step": torch.tensor(float(targets_seen))}}, "order": [1, (2.5, None, "x")]},
    )


def save_checkpoint(
    folder: Path,
    *,
    model: WorldModel,
    config: RunConfig,
    meta: dict[str, Any],
    resume: dict[str, Any],
    keep: int,
) -> Path:
    """Write one checkpoint of a model, wait for it, and return its folder."""
    taken = Snapshot(model_state=model.state_dict(), config=config, meta=meta, resume=resume)
    with CheckpointWriter(LocalStore(folder), keep, print) as writer:
        writer.save(taken, wait=True)
        assert writer.written is not None
        return folder / str(writer.written)


def list_checkpoints(folder: Path) -> list[Path]:
    """Committed checkpoints in a folder, oldest first, including damaged ones."""
    return [folder / str(name) for name in LocalStore(folder).names()]


def failing(message: str) -> None:
    """For writers that must have no problem."""
    raise AssertionError(f"unexpected: {message}")
