"""Validation while a run trains: the same targets every time, divided among the ranks."""

from __future__ import annotations

from typing import Any

import torch

from datasets.loading.targets import Targets, evaluation_targets
from wm.checkpoints.retention import SIGN
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData
from wm.evaluation.evaluator import evaluate_windows
from wm.evaluation.metrics import METRICS, compute_metrics, concatenate
from wm.model.world_model import WorldModel
from wm.training import distributed

Row = dict[str, Any]


class Validation:
    """Evaluates a model at every context of its config.

    Attributes:
        best: best value so far of each metric that decides which checkpoints are kept, for a checkpoint.
    """

    def __init__(self, config: RunConfig, data: TrainingData, device: torch.device, best: dict[str, float]) -> None:
        self._config, self._data, self._device, self.best = config, data, device, best
        self._train_frames = int(data.train.num_frames.sum())
        self._targets: dict[int, Targets] = {}

    def rows(self, model: WorldModel, num_targets: int, targets_seen: int, seconds: float) -> list[Row]:
        """A row of metrics for each context, the same on every rank."""
        if num_targets not in self._targets:
            self._targets[num_targets] = evaluation_targets(self._data.evaluation, num_targets)
        targets = self._targets[num_targets]
        share = slice(distributed.rank(), None, distributed.world_size())
        mine = Targets(games=targets.games[share], frames=targets.frames[share])
        rows = []
        for context in self._config.contexts:
            judged = evaluate_windows(model, self._data.evaluation, mine, context, self._device, self._config.precision)
            metrics = compute_metrics(concatenate(distributed.all_gather_object(judged)))
            rows.append(
                {
                    "kind": "eval", "targets_seen": targets_seen, "seconds": seconds, "context": context,
                    "num_targets": len(targets), "epochs": targets_seen / self._train_frames,
                }
                | {name: metrics[name].value for name in METRICS}
            )  # fmt: skip
        return rows

    def is_best(self, row: Row) -> bool:
        """Whether a row is the best so far by any metric; remembers it."""
        better = {
            name: row[name]
            for name, sign in SIGN.items()
            if row[name] is not None and (name not in self.best or sign * (row[name] - self.best[name]) > 0)
        }
        self.best = self.best | better
        return bool(better)

    def next_at(self, targets_seen: int) -> int:
        """Targets seen at the next validation."""
        every = self._config.eval.every_targets
        return (targets_seen // every + 1) * every
