"""Evaluation of a run: on the same frames at every validation, on more frames at its end, divided among the ranks; and
dreams at its end, on rank 0 while the other ranks wait.

A validation reads nothing: its frames are gathered once, while the run starts.
Guarded by `benchmarks/measures/validation.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from datasets.loading.frames import BYTES_PER_FRAME, GameIndex
from datasets.loading.targets import COUNTDOWN_FRAMES, Targets
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from wm.checkpoints.retention import Row, is_better
from wm.config.run_config import Context, RunConfig
from wm.data.batches import MAX_READ_THREADS
from wm.data.training_data import TrainingData
from wm.evaluation.evaluator import evaluate_contexts
from wm.evaluation.game_sums import GameSums, concatenate_sums, metric_values, sums_by_game
from wm.evaluation.metrics import EvalRecords, longest_context
from wm.evaluation.slices import NEEDED_CONTEXT, labels_of, since_hit, slice_sums
from wm.evaluation.target_frames import EvaluationFrames, TargetFrames, max_device_bytes
from wm.model.world_model import WorldModel
from wm.rollout.judge import judge
from wm.training import distributed

if TYPE_CHECKING:  # the recorder stores what this module measures
    from wm.training.recorder import Recorder

Sums = dict[Context, GameSums]
"""Context -> sums by game, over all ranks."""
Records = dict[Context, EvalRecords]
"""Context -> records of this rank, in the order of its targets."""
LOGGED_DREAMS = (
    "coherence_5",
    "coherence_10",
    "coherence_20",
    "position_20",
    "action_acc_20",
    "percent_20",
    "possible_20",
)
"""Keys of the coherence that the row of the log has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One evaluation, the same on every rank."""

    rows: list[Row]
    """Metrics by context, as in the log."""
    validation_rows: list[Row]
    """The same on the frames of a validation alone, comparable with every other validation of the run."""
    sums: Sums


class Validation:
    """Evaluates a run's model at the contexts of its config. Call `close` at the end.

    Attributes:
        best: criterion and best validation so far, as in `wm.checkpoints.retention`.
    """

    def __init__(self, config: RunConfig, data: TrainingData, device: torch.device, best: Mapping[str, Any]) -> None:
        """Start to read the frames of a validation, in a thread.

        Args:
            best: of the checkpoint; ignored if the config names another criterion by now.
        """
        self._config, self._data, self._device = config, data, device
        self._train_frames = int(data.train.num_frames.sum())
        criterion = {"metric": config.eval.best_metric, "context": config.best_context}
        is_same = all(best.get(name) == value for name, value in criterion.items())
        self.best: dict[str, Any] = dict(best) if is_same else criterion
        self._frames = self._open(config.eval.validation_targets, config.validation_contexts)

    def validate(self, model: WorldModel, targets_seen: int, seconds: float) -> Evaluation:
        """Evaluate on the frames of every validation; every rank must call.

        Raises:
            UserError: the frames cannot be read.
        """
        sums = self._gather(self._evaluate(model, self._frames, self._config.validation_contexts))
        rows = self.rows(sums, targets_seen, seconds)
        return Evaluation(rows=rows, validation_rows=rows, sums=sums)

    def evaluate_at_end(self, model: WorldModel, targets_seen: int, seconds: float) -> Evaluation:
        """Evaluate on `eval.num_targets` frames; every rank must call.

        Raises:
            UserError: the frames cannot be read.
        """
        contexts, of_validation = self._config.contexts, self._config.validation_contexts
        frames = self._open(self._config.eval.num_targets, (*contexts, NEEDED_CONTEXT))
        since_hit_by_group: list[np.ndarray] = []

        def groups() -> Iterator[TargetFrames]:
            for group in frames:
                since_hit_by_group.append(since_hit(group))
                yield group

        try:
            records = self._evaluate(model, groups(), contexts)
            is_among = _is_among(frames.local_targets, self._frames.targets)
        finally:
            frames.close()
        sums = self._gather(records, np.concatenate(since_hit_by_group) if since_hit_by_group else None)
        # Fewer targets are the first of more, so that the last checkpoint is compared on the frames of the others.
        few = self._gather({k: part.take(is_among) for k, part in records.items() if k in of_validation})
        return Evaluation(
            rows=self.rows(sums, targets_seen, seconds),
            validation_rows=self.rows(few, targets_seen, seconds),
            sums=sums,
        )

    def rows(self, sums: Sums, targets_seen: int, seconds: float) -> list[Row]:
        """A row of metrics for each context."""
        return [
            {
                "kind": "eval", "targets_seen": targets_seen, "seconds": seconds, "context": context,
                "num_targets": int(by_game.num_frames.sum()), "epochs": targets_seen / self._train_frames,
            }
            | metric_values(by_game)
            for context, by_game in sums.items()
        ]  # fmt: skip

    def is_at_end(self, sums: Sums) -> bool:
        """Whether stored sums are of all contexts and frames that `evaluate_at_end` takes."""
        available = int(np.maximum(0, self._data.evaluation.num_frames - COUNTDOWN_FRAMES).sum())
        expected = min(self._config.eval.num_targets, available)
        return tuple(sums) == self._config.contexts and all(
            by_game.num_frames.sum() == expected and by_game.slices for by_game in sums.values()
        )

    def update_best(self, evaluation: Evaluation, targets_seen: int) -> bool:
        """Remember an evaluation if it is the best so far; returns whether it is."""
        row = next(row for row in evaluation.validation_rows if row["context"] == self.best["context"])
        if not is_better(row, self.best):
            return False
        value = row[self.best["metric"]]
        # A new dictionary: a thread may be writing the old one with a checkpoint.
        self.best = self.best | {"value": value, "num_targets": row["num_targets"], "targets_seen": targets_seen}
        return True

    def next_at(self, targets_seen: int) -> int:
        """Targets seen at the next validation."""
        every = self._config.eval.every_targets
        return (targets_seen // every + 1) * every

    def close(self) -> None:
        """End the thread and free the frames."""
        self._frames.close()

    def _open(self, num_targets: int, contexts: tuple[Context, ...]) -> EvaluationFrames:
        """This rank's part of the frames. Half of its cores read them, since training uses the others."""
        return EvaluationFrames(
            self._data.evaluation, num_targets, longest_context(contexts), self._device,
            num_threads=max(1, min(MAX_READ_THREADS, num_cores() // distributed.local_world_size() // 2)),
            rank=distributed.rank(), world_size=distributed.world_size(),
        )  # fmt: skip

    def _evaluate(self, model: WorldModel, frames: Iterable[TargetFrames], contexts: tuple[Context, ...]) -> Records:
        return evaluate_contexts(model, frames, contexts, self._device, self._config.precision)

    def _gather(self, records: Mapping[Context, EvalRecords], since_hit_M: np.ndarray | None = None) -> Sums:
        """The sums over all ranks; a rank without targets has no records.

        Args:
            since_hit_M: of the records' targets; with it the sums have slices.
        """
        index = self._data.evaluation
        mine = {context: sums_by_game(of_context, index.game_ids) for context, of_context in records.items()}
        if since_hit_M is not None:
            mine = {
                context: replace(
                    sums,
                    slices=slice_sums(
                        records[context], index.game_ids, labels_of(records[context], index, since_hit_M)
                    ),
                )
                for context, sums in mine.items()
            }
        parts = [part for part in distributed.all_gather_object(mine) if part]
        return {context: concatenate_sums([part[context] for part in parts]) for context in parts[0]}


def validation_device_bytes(config: RunConfig, device: torch.device) -> int:
    """Most memory of the device that a validation's frames take."""
    longest, most = longest_context(config.validation_contexts), max_device_bytes(device)
    if longest == "stream":
        return most
    needed = config.eval.validation_targets * (longest + 1) * BYTES_PER_FRAME
    return needed if needed <= most else 0


def _is_among(targets: Targets, others: Targets) -> np.ndarray:
    """Whether each target is one of the others: bool (targets,)."""
    keys, other_keys = (one.games.astype(np.int64) << 32 | one.frames for one in (targets, others))
    return np.isin(keys, other_keys)


def measure_dreams(
    model: WorldModel, evaluation: GameIndex, recorder: Recorder, *, targets_seen: int, num_dreams: int
) -> None:
    """Measure the coherence, unless the run has it already, and store and log it; every rank must call.

    A model whose weights have diverged, or games that are too short, are a warning: the run is complete without.

    Args:
        num_dreams: 0 for none.
    """
    is_stored = recorder.has_dreams(targets_seen)
    if num_dreams and not is_stored and distributed.rank() == 0:
        try:
            coherence = _coherence(model, evaluation, num_dreams)
        except UserError as error:
            recorder.warn(f"no coherence: {error}")
        else:
            still = coherence["baselines"]["stand still"]["coherence_20"]
            row = {key: coherence[key] for key in LOGGED_DREAMS} | {"still_20": still}
            recorder.log_dreams(targets_seen, coherence, row)
    distributed.broadcast_object(None)


def _coherence(model: WorldModel, evaluation: GameIndex, num_dreams: int) -> dict[str, Any]:
    """Without the baseline of the nearest situation, which takes longer than the dreams of a small model.

    Raises:
        UserError: no game is long enough for a dream, or the predictions are not finite.
    """
    is_training = model.training
    try:
        return judge(model, evaluation, next(model.parameters()).device, num_starts=num_dreams)
    finally:
        model.train(is_training)
