"""The judgement of a run while it trains: the same targets every time, each rank a share of them."""

from __future__ import annotations

from typing import Any

import torch

from datasets.loading.targets import Targets, evaluation_targets
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData
from wm.evaluation.evaluator import judge_windows
from wm.evaluation.metrics import concatenate, metrics_of
from wm.model.world_model import WorldModel
from wm.training import distributed

LOGGED_METRICS = ("action_acc", "change_acc", "pos_mae", "val_loss")


class Validation:
    """Judges at every context of a config."""

    def __init__(self, config: RunConfig, data: TrainingData, device: torch.device) -> None:
        self._config, self._data, self._device = config, data, device
        self._train_frames = int(data.train.num_frames.sum())
        self._targets: dict[int, Targets] = {}

    def rows(self, model: WorldModel, num_targets: int, targets_seen: int, seconds: float) -> list[dict[str, Any]]:
        """A row of metrics for each context, the same on every rank."""
        if num_targets not in self._targets:
            self._targets[num_targets] = evaluation_targets(self._data.judged, num_targets)
        targets = self._targets[num_targets]
        share = slice(distributed.rank(), None, distributed.world_size())
        mine = Targets(games=targets.games[share], frames=targets.frames[share])
        rows = []
        for context in self._config.contexts:
            judged = judge_windows(model, self._data.judged, mine, context, self._device, self._config.precision)
            metrics = metrics_of(concatenate(distributed.from_all_ranks(judged)))
            rows.append(
                {
                    "kind": "eval", "targets_seen": targets_seen, "seconds": seconds, "context": context,
                    "num_targets": len(targets), "epochs": targets_seen / self._train_frames,
                }
                | {name: metrics[name].value for name in LOGGED_METRICS}
            )  # fmt: skip
        return rows
