"""States to save whose every number tells when they were taken: what tests of checkpoints share."""

from __future__ import annotations

import torch

from wm.checkpoints.writer import Snapshot
from wm.config.model_config import ModelConfig
from wm.config.run_config import RunConfig

CONFIG = RunConfig(model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"))


def snapshot(targets_seen: int, *, val_loss: float = 1.0, change_acc: float = 0.0, num_numbers: int = 8) -> Snapshot:
    """A state whose every number is the place at which it was taken."""
    row = {"context": 10, "targets_seen": targets_seen, "val_loss": val_loss, "change_acc": change_acc}
    return Snapshot(
        model_state={"weight": torch.full((num_numbers,), float(targets_seen))},
        config=CONFIG,
        meta={"targets_seen": targets_seen, "metrics": [row]},
        resume={"optimizer": {0: {"step": torch.tensor(float(targets_seen))}}, "order": [1, (2.5, None, "x")]},
    )


def failing(message: str) -> None:
    raise AssertionError(f"unexpected: {message}")
