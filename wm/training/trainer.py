"""The training function: Ray Train wraps it, a Tune trial calls it, and a test runs it in-process."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from datasets.loading.sequences import ORDER_VERSION
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from datasets.runtime.uris import without_credentials
from wm.checkpoints.staging import Snapshot
from wm.config.typed_yaml import to_plain
from wm.data.batches import LocalBatch
from wm.data.training_data import TrainingData, games_digest
from wm.model.precision import uses_bf16
from wm.model.world_model import build_model, num_parameters
from wm.runs.run import Run
from wm.training import distributed
from wm.training.compilation import compile_during, is_compiled, restore_eager, should_compile
from wm.training.device import agreed_scan_backend, device_name, select_device
from wm.training.divergence import DivergedError, DivergenceDetector
from wm.training.open_batches import open_batches
from wm.training.optimizer import Optimizer
from wm.training.recorder import Recorder
from wm.training.starting_point import agreed_checkpoint, begin, restore
from wm.training.throughput import PartTimes, Throughput, evaluated_frames, peak_gb
from wm.training.train_step import NonFiniteGradientError, StepStats, TrainStep
from wm.training.validation import Evaluation, Row, Validation, measure_dreams

OnValidation = Callable[[list[Row]], None]
"""Takes the rows of one validation, one per context; called on every rank equally often."""
OnProgress = Callable[[Row], None]
"""Takes the newest progress numbers; called on every rank after the same updates, PROGRESS_EVERY_S seconds apart."""

REMEDY = "lower optimizer.learning_rate, or raise optimizer.warmup_targets"
PROGRESS_EVERY_S = 10.0
STEPS_PER_SYNC = {"cuda": 8, "cpu": 1}
"""Updates that are queued on a device before the host waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run ended."""

    targets_seen: int
    seconds: float
    """Training time: from the first batch requested to the last update, without validation."""
    rows: list[Row]
    """The last validation, a row per context."""
    interrupted: bool = False
    """It saved after a stop request and can be resumed."""


def train(
    run: Run,
    data: TrainingData,
    on_validation: OnValidation,
    resume: Path | None,
    on_progress: OnProgress = lambda row: None,
) -> TrainResult:
    """Train, or resume from a checkpoint with exactly the batch that was next.

    Args:
        resume: a checkpoint of this run; None starts from the beginning.
    Raises:
        DivergedError: on every rank, if the config says stop or a rollback did not help.
        UserError: the step does not fit in memory, or the checkpoint is from other games.
    """
    num_rollbacks = 0
    while True:
        with ExitStack() as closing:
            trainer = Trainer(run, data, on_validation, on_progress, resume, num_rollbacks, closing)
            try:
                return trainer.train()
            except DivergedError as error:
                if run.config.divergence.action == "stop" or trainer.num_rollbacks:
                    raise
                resume, num_rollbacks = trainer.roll_back(str(error)), 1
                del trainer  # frees weights and frames before the next memory check


class Trainer:
    """The training loop of one rank and its state."""

    def __init__(
        self,
        run: Run,
        data: TrainingData,
        on_validation: OnValidation,
        on_progress: OnProgress,
        resume: Path | None,
        num_rollbacks: int,
        closing: ExitStack,
    ) -> None:
        """
        Args:
            num_rollbacks: in this process.
            closing: receives what must be closed, also if this constructor fails.
        """
        config = run.config
        self.run, self.config, self.data = run, config, data
        self._on_validation, self._on_progress = on_validation, on_progress
        self._games = games_digest(data)
        self.device = select_device(config)
        if self.device.type == "cpu":
            raise_malloc_thresholds()
        torch.manual_seed(config.seed)
        self._scan = agreed_scan_backend(config, self.device)
        network = replace(config.model, scan_backend=self._scan.backend)
        self.model = build_model(network, config.objective.context_frames).to(self.device)
        self.optimizer = Optimizer(self.model, config)
        start = begin(run, self.model) if resume is None else restore(resume, run, data, self.model, self.optimizer)
        meta, self._start = start.meta, start
        self.targets_seen: int = meta.get("targets_seen", 0)
        self.num_updates: int = meta.get("step", 0)
        self.last_rows: list[Row] = meta.get("metrics", [])
        evaluated_at = max((row["targets_seen"] for row in self.last_rows), default=0)
        self._recorder = Recorder(run, self.targets_seen, evaluated_at, scan_backend=self._scan.backend)
        closing.callback(self._recorder.close)
        if distributed.rank() == 0:
            closing.enter_context(run.stop_request.watched())
        self.num_rollbacks = max(num_rollbacks, meta.get("rollbacks", 0), self._recorder.num_rollbacks())
        self._divergence = DivergenceDetector(config.divergence, meta.get("divergence"))
        self._throughput = Throughput(meta.get("seconds", 0.0), self.targets_seen)
        self._compiles = should_compile(self.model, config, self.device)
        closing.callback(restore_eager, self.model)
        self._step = TrainStep(self.model, self.optimizer, config, self.device, self._recorder.warn)
        if self._step.rollout is not None:
            self._step.rollout.load_state_dict(start.rollout)
        batches = open_batches(self._step, data, meta, self._recorder.warn, closing)
        self._feed, self.batch_size, self._schedule = batches.loader, batches.batch_size, batches.schedule
        self._shuffle_units = batches.shuffle_units
        self._epoch = self._feed.cursor.epoch
        self._validation = Validation(config, data, self.device, meta.get("best", {}))
        closing.callback(self._validation.close)
        self._next_validation = self._validation.next_at(self.targets_seen)
        self._last_log = self._last_save = self._last_progress = time.monotonic()
        self._parts = PartTimes(run.started_at)
        self._measured: dict[str, Any] = {}
        # A run that began with other weights saves at once: from then on it does not need their checkpoint.
        self._is_save_due = resume is None and start.initial_weights is not None
        self.is_interrupted = False
        self._is_out_of_time = config.max_seconds is not None and self._throughput.seconds >= config.max_seconds
        self._is_trained: bool = self.is_over and meta.get("trained", False)
        self._evaluated: dict[str, Any] | None = meta.get("evaluated") if self._is_trained else None
        self._validation_rows: list[Row] = meta.get("validation", [])
        self._log_start()

    @property
    def is_over(self) -> bool:
        """Whether the loop ends: end of the schedule, time limit or stop request."""
        return self._is_out_of_time or self.is_interrupted or self.targets_seen >= self.config.optimizer.total_targets

    def train(self) -> TrainResult:
        """Update until the loop is over, with validations and checkpoints in between, then evaluate."""
        batches = iter(self._feed)
        self._parts.is_ready()
        while not self.is_over:
            self._throughput.start()
            self.update(next(batches))
            is_validation_due = self.targets_seen >= self._next_validation
            if is_validation_due or self._is_sync_due:
                self.synchronize()
            if is_validation_due and not self.is_over:
                self.validate()
            if self._is_save_due and not self.is_over:
                self.save()
        self._throughput.stop()
        if self.is_interrupted or not self._is_trained:
            self._is_trained = not self.is_interrupted
            self.save(wait=True)  # before the final evaluation as well: a kill during it then costs no update
        if not self.is_interrupted:
            self.evaluate_at_end()
        return TrainResult(
            targets_seen=self.targets_seen, seconds=self._throughput.seconds, rows=self.last_rows,
            interrupted=self.is_interrupted,
        )  # fmt: skip

    def update(self, share: LocalBatch) -> None:
        """One optimizer step over every rank's share of a batch."""
        step = functools.partial(self._step, share, self._learning_rate(), self.num_updates)
        try:
            if self._compiles:
                self._compiles = False
                failure = compile_during(self.model, step)
                if failure is not None:
                    self._recorder.warn(f"torch.compile failed; continuing in eager mode ({failure})")
                    step()
            else:
                step()
        except NonFiniteGradientError as error:
            raise DivergedError(f"the gradient is not finite at {self.targets_seen:,} targets; {REMEDY}") from error
        self.num_updates += 1
        self.targets_seen += share.num_examples * self.config.objective.predictions
        if self._feed.cursor.epoch != self._epoch:
            self._epoch, self._is_save_due = self._feed.cursor.epoch, True

    @property
    def _is_sync_due(self) -> bool:
        """The same on every rank: it depends on the data alone."""
        is_full = self.num_updates % STEPS_PER_SYNC[self.device.type] == 0
        return is_full or self._is_save_due or self.targets_seen >= self.config.optimizer.total_targets

    def synchronize(self) -> None:
        """Wait for the updates since the last time, and agree with the other ranks what to do next."""
        now, limit = time.monotonic(), self.config.max_seconds
        stats = self._step.synchronize(
            {
                "out_of_time": limit is not None and self._throughput.seconds >= limit,
                "save": now - self._last_save >= self.config.checkpoint.every_s,
                "stop": self.run.stop_request.is_set(),
                "progress": now - self._last_progress >= PROGRESS_EVERY_S,
            }
        )
        self._throughput.update()
        self._is_out_of_time = stats.rank_requests["out_of_time"]
        self._is_save_due |= stats.rank_requests["save"]
        self.is_interrupted = stats.rank_requests["stop"]
        if stats.num_skipped:
            raise DivergedError(f"a gradient is not finite before {self.targets_seen:,} targets; {REMEDY}")
        reason = self._divergence.update(stats.loss, self.targets_seen, stats.num_steps)
        if reason is not None:
            raise DivergedError(f"{reason}; {REMEDY}")
        if now - self._last_log >= self.config.log_every_s or self.is_over:
            self._log_progress(stats)
        if stats.rank_requests["progress"] and not self.is_over:
            self._last_progress = now
            self._on_progress(
                {
                    "targets_seen": self.targets_seen, "seconds": self._throughput.seconds, "loss": stats.loss,
                    "targets_per_s": self._throughput.steady_targets_per_s, "learning_rate": self._learning_rate(),
                }
            )  # fmt: skip

    def validate(self) -> None:
        """Evaluate the model on the frames of every validation, and request a checkpoint if it is the best so far."""
        self._throughput.stop()
        self._next_validation = self._validation.next_at(self.targets_seen)
        with self._parts.validations.once():
            evaluation = self._validation.validate(self.model, self.targets_seen, self._throughput.seconds)
            self._is_save_due |= self._record(evaluation)
        self._parts.validations.frames += evaluated_frames(evaluation.rows)

    def evaluate_at_end(self) -> None:
        """Evaluate the trained model, and save the result, unless the checkpoint of this run holds it already."""
        if self._evaluated == self.config.final_evaluation:
            self._on_validation(self.last_rows)
            return
        at = self.targets_seen, self._throughput.seconds
        stored = self._recorder.evaluation(self.targets_seen)
        if stored is not None and self._validation.is_at_end(stored):  # by a command that was killed before it saved
            evaluation = self._validation.validate(self.model, *at)
            evaluation = replace(evaluation, rows=self._validation.rows(stored, *at), sums=stored)
            self._record(evaluation)
        else:
            with self._parts.final_evaluation.once():
                evaluation = self._validation.evaluate_at_end(self.model, *at)
                self._record(evaluation)
            self._parts.final_evaluation.frames += evaluated_frames(evaluation.rows)
        measure_dreams(
            self.model, self.data.evaluation, self._recorder, targets_seen=self.targets_seen,
            num_dreams=self.config.eval.num_dreams,
        )  # fmt: skip
        self._evaluated = self.config.final_evaluation
        self.save(wait=True)
        if self._measured:  # otherwise the profile of the command that trained stays
            self._write_profile()

    def _record(self, evaluation: Evaluation) -> bool:
        """Log and report an evaluation; returns whether it is the best so far."""
        self.last_rows, self._validation_rows = evaluation.rows, evaluation.validation_rows
        is_best = self._validation.update_best(evaluation, self.targets_seen)
        self._recorder.log_evaluation(evaluation, self.targets_seen)
        self._on_validation(self.last_rows)
        return is_best

    def save(self, wait: bool = False) -> None:
        """Copy the state; a thread of rank 0 writes it."""
        self._throughput.stop()
        if self.config.checkpoint.every_s == 0:  # none may be skipped because the one before is still being written
            self._recorder.wait()
        self._is_save_due, self._last_save = False, time.monotonic()
        with self._parts.checkpoints.once():
            is_taken = self._recorder.save(self._snapshot, wait=wait)
        if not is_taken:
            self._last_save = -math.inf  # the previous write still runs: every rank tries again after a later sync

    def roll_back(self, reason: str) -> Path | None:
        """Where to resume after a divergence: the newest intact checkpoint, or None for the beginning."""
        self._recorder.wait()
        found, damaged = agreed_checkpoint(self.run.checkpoints)
        to_targets = 0 if found is None else found.meta["targets_seen"]
        for message in damaged:
            self._recorder.warn(message)
        self._recorder.drop_checkpoints_after(to_targets)
        self._recorder.log(
            "rollback", targets_seen=self.targets_seen, reason=reason, to_targets=to_targets,
            rate_factor=self.config.divergence.lr_factor,
        )  # fmt: skip
        return None if found is None else found.path

    def _learning_rate(self) -> float:
        return self._schedule.learning_rate(self.targets_seen) * self.config.divergence.lr_factor**self.num_rollbacks

    def _snapshot(self) -> Snapshot:
        meta = {
            "targets_seen": self.targets_seen,
            "step": self.num_updates,
            "seconds": self._throughput.seconds,
            "num_parameters": num_parameters(self.model),
            "trained": self._is_trained,
            "evaluated": self._evaluated,
            "finished": self._evaluated is not None,
            "games": self._games,
            "metrics": self.last_rows,
            "validation": [row for row in self._validation_rows if row["targets_seen"] == self.targets_seen],
            "best": self._validation.best,
            "cursor": asdict(self._feed.cursor),
            "order_version": ORDER_VERSION,
            "shuffle_units": self._shuffle_units,
            "batch_size": self.batch_size,
            "schedule": asdict(self._schedule),
            "initial_weights": self._start.initial_weights,
            "rollbacks": self.num_rollbacks,
            "divergence": self._divergence.state(),
        }
        resume = {"optimizer": self.optimizer.state_dict()}
        if self._step.rollout is not None:
            resume["rollout"] = self._step.rollout.state_dict()
        return Snapshot(model_state=self.model.state_dict(), config=self.config, meta=meta, resume=resume)

    def _log_start(self) -> None:
        initial = self._start.initial_weights
        if initial is not None:
            initial = initial | {"checkpoint": without_credentials(initial["checkpoint"])}
        self._recorder.log(
            "start", targets_seen=self.targets_seen, num_parameters=num_parameters(self.model),
            workers=distributed.world_size(), device=self.device.type, train_games=len(self.data.train),
            train_frames=int(self.data.train.num_frames.sum()), judged_games=len(self.data.evaluation),
            batch_size=self.batch_size, learning_rate=self._schedule.peak,
            warmup_targets=self._schedule.warmup_targets, compiles=self._compiles,
            scan_backend=self._scan.backend, changed=self._start.changed, initial_weights=initial,
        )  # fmt: skip
        if self._scan.note is not None:
            self._recorder.warn(self._scan.note)

    def _log_progress(self, stats: StepStats) -> None:
        """A progress line and the throughput profile."""
        self._last_log = time.monotonic()
        speed = self._throughput.since_last_log(self.targets_seen, self._feed.waited_s)
        memory = peak_gb(self.device)
        self._recorder.log(
            "train", targets_seen=self.targets_seen, seconds=self._throughput.seconds, loss=stats.loss,
            action_acc=stats.action_acc, change_acc=stats.change_acc, **speed, learning_rate=self._learning_rate(),
            data="resident" if self._feed.is_cached else "pools", **memory,
        )  # fmt: skip
        self._measured = {"wait_share": speed["wait_share"], **memory}
        self._write_profile()

    def _write_profile(self) -> None:
        """The throughput profile; keys in `wm.runs.run.Run.write_profile`."""
        self._recorder.write_profile(
            device=self.device.type, device_name=device_name(self.device), workers=distributed.world_size(),
            threads=torch.get_num_threads(), batch_size=self.batch_size,
            precision="bf16" if uses_bf16(self.device, self.config.precision) else "fp32",
            resident=self._feed.is_cached, targets_per_s=self._throughput.steady_targets_per_s,
            checkpoint_held_s=self._recorder.blocked_s, checkpoint_bytes=self._recorder.checkpoint_bytes,
            core=self._scan.backend, compiled=is_compiled(self.model), cuda_graph=self._step.is_captured,
            num_parameters=num_parameters(self.model), model=to_plain(self.config.model),
            objective=to_plain(self.config.objective), train_games=len(self.data.train),
            train_frames=int(self.data.train.num_frames.sum()),
            targets_seen=self.targets_seen, train_s=self._throughput.seconds,
            **self._measured, **self._throughput.steady, **self._parts.plain(),
        )  # fmt: skip
