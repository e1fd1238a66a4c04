"""Training: one plain function that Ray Train wraps, a Tune trial calls, and a test runs in-process."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.loading.sequences import Cursor, SequenceOrder
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from wm.checkpoints.reader import load_resume, load_weights, open_checkpoint
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.run_config import RunConfig
from wm.data.batches import Feed, Share, bytes_on_device
from wm.data.training_data import TrainingData, check_same_games, digest_of_games
from wm.model.precision import uses_bf16
from wm.model.world_model import build_model, num_parameters
from wm.runs.run_folder import RunLog, note_attempt, place_of_checkpoints, write_profile
from wm.runs.stop_request import Interruption
from wm.training import distributed
from wm.training.compilation import compile_for, is_compiled, is_to_be_compiled, run_as_it_is
from wm.training.divergence import DivergenceWatch
from wm.training.host_memory import keep_freed
from wm.training.memory_check import dry_step, largest_batch
from wm.training.optimizer import Optimizer, learning_rate
from wm.training.resume import agreed_checkpoint
from wm.training.throughput import Pace, peak_gb
from wm.training.train_step import NonFiniteGradientError, Reading, Step
from wm.training.validation import Validation

Row = dict[str, Any]
Report = Callable[[list[Row]], None]
"""Takes the rows of one validation, one for each judged context; called on every rank equally often."""

LESS_STEEP = "lower optimizer.learning_rate, or raise optimizer.warmup_targets"
STEPS_BETWEEN_READINGS = {"cuda": 8, "cpu": 1}
"""Updates that are queued on a device before the host waits for it."""


class DivergedError(RuntimeError):
    """The loss exploded or is not a number; raised on every rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run ended."""

    targets_seen: int
    seconds: float
    """Of training alone: from the first batch asked for to the last update, without validation."""
    rows: list[Row]
    """The last validation, a row for each judged context."""
    interrupted: bool = False
    """It was told to stop, saved, and can go on."""


def pick_device(config: RunConfig) -> torch.device:
    """The GPU that Ray gave this worker, or the CPU.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if not config.use_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("use_gpu is set, but no CUDA device is to be seen; set use_gpu: false, or install a CUDA torch")
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda", torch.cuda.current_device())


def use_cores(config: RunConfig, processes: int) -> None:
    """Give torch this process' part of the machine's cores, or `num_threads`; Ray would leave it one thread.

    Args:
        processes: that share the machine's cores.
    """
    if not config.use_gpu:
        share = max(1, num_cores() // processes)
        torch.set_num_threads(share if config.num_threads == "auto" else config.num_threads)


def train(config: RunConfig, data: TrainingData, report: Report, resume: Path | None) -> TrainResult:
    """Train, or go on from a checkpoint with the very batch that was next.

    Args:
        report: takes the rows of each validation.
        resume: a checkpoint of this run, or None to begin.
    Raises:
        DivergedError: on every rank, where the config says stop or a rollback did not help.
        UserError: the step does not fit in memory, or the checkpoint is of other games.
    """
    rollbacks = 0
    while True:
        with ExitStack() as closing:
            run = _Run(config, data, report, resume, rollbacks, closing)
            try:
                return run.to_the_end()
            except DivergedError as error:
                if config.divergence.action == "stop" or run.rollbacks:
                    raise
                resume, rollbacks = run.roll_back(str(error)), 1
                del run  # its weights and frames must go before the dry step of the next


class _Run:
    """The state of one rank's training."""

    def __init__(
        self,
        config: RunConfig,
        data: TrainingData,
        report: Report,
        resume: Path | None,
        rollbacks: int,
        closing: ExitStack,
    ) -> None:
        """
        Args:
            rollbacks: that this process knows of.
            closing: takes what must be closed, also where this constructor fails.
        """
        self.config, self.data, self._report = config, data, report
        self.device = pick_device(config)
        if self.device.type == "cpu":
            keep_freed()
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, config.objective.context_frames).to(self.device)
        self.optimizer = Optimizer(self.model, config)
        meta: dict[str, Any] = {} if resume is None else self._restore(resume)
        self.targets_seen: int = meta.get("targets_seen", 0)
        self.num_updates: int = meta.get("step", 0)
        self._best: dict[str, float] = meta.get("best", {})
        self.last_rows: list[Row] = meta.get("metrics", [])
        self._log = None
        if distributed.rank() == 0:
            self._log = RunLog(config.out, self.targets_seen)
            closing.callback(self._log.close)
            note_attempt(config.out, resumed_at=self.targets_seen, workers=distributed.world_size())
        self.rollbacks = max(rollbacks, meta.get("rollbacks", 0), self._logged_rollbacks())
        self._watch = DivergenceWatch(config.divergence, meta.get("divergence"))
        self._pace = Pace(meta.get("seconds", 0.0), self.targets_seen)
        self._validation = Validation(config, data, self.device)
        self._games = digest_of_games(data)
        self._interruption = Interruption(config.out)
        self._writer = None
        if distributed.rank() == 0:  # each rank would write the same
            self._writer = CheckpointWriter(self._place, config.checkpoint.keep_last, self._report_problem)
            closing.callback(self._writer.close)
        self._is_to_be_compiled = is_to_be_compiled(self.model, config, self.device)
        closing.callback(run_as_it_is, self.model)
        self._step = Step(self.model, self.optimizer, config, self.device)
        self.batch_size = self._batch_size(meta)
        order = self._order(self.batch_size)
        of_worker = -(-self.batch_size // distributed.world_size())
        dry_step(self._step, config, of_worker, self._frames_bytes(order))
        self._feed = self._open_feed(order, Cursor(**meta["cursor"]) if meta else Cursor())
        closing.callback(self._feed.close)
        self._epoch = self._feed.cursor.epoch
        self._next_validation = self._validation_after(self.targets_seen)
        self._last_log = self._last_save = time.monotonic()
        self._save_is_due = False
        self._held_s = 0.0
        self.interrupted = False
        self._is_late = config.max_seconds is not None and self._pace.seconds >= config.max_seconds
        self._log_start()

    @property
    def finished(self) -> bool:
        return self._is_late or self.interrupted or self.targets_seen >= self.config.optimizer.total_targets

    def to_the_end(self) -> TrainResult:
        """Update after update, until the schedule or the time is over, or somebody says stop."""
        shares = iter(self._feed)
        while not self.finished:
            self._pace.start()
            self.update(next(shares))
            validates = self.targets_seen >= self._next_validation
            if validates or self._is_time_to_read:
                self.read()
            if validates and not self.finished:
                self.validate(self.config.eval.validation_targets)
            if self._save_is_due and not self.finished:
                self.save()
        self._pace.stop()
        self.save(wait=True)  # before the judgement too: a kill during it then costs no update
        if not self.interrupted:
            self.validate(self.config.eval.num_targets)
            self.save(wait=True)
        return TrainResult(
            targets_seen=self.targets_seen,
            seconds=self._pace.seconds,
            rows=self.last_rows,
            interrupted=self.interrupted,
        )

    def update(self, share: Share) -> None:
        """One step of the optimizer over every rank's share of a batch."""
        step = functools.partial(self._step, share, self._learning_rate(), self.num_updates)
        try:
            if self._is_to_be_compiled and share.num_examples == self.batch_size:
                self._is_to_be_compiled = False
                reason = compile_for(self.model, step)
                if reason is not None:
                    self._report_problem(f"the network runs as it is, it cannot be compiled here ({reason})")
                    step()
            else:
                step()
        except NonFiniteGradientError as error:
            raise DivergedError(f"the gradient is not finite at {self.targets_seen:,} targets; {LESS_STEEP}") from error
        self.num_updates += 1
        self.targets_seen += share.num_examples * self.config.objective.predictions

    @property
    def _is_time_to_read(self) -> bool:
        """Equal on every rank: it depends on the data alone."""
        self._save_is_due |= self._feed.cursor.epoch != self._epoch
        enough = self.num_updates % STEPS_BETWEEN_READINGS[self.device.type] == 0
        return enough or self._save_is_due or self.targets_seen >= self.config.optimizer.total_targets

    def read(self) -> None:
        """Look at the updates since the last time, and agree with the other ranks what comes now."""
        now, limit = time.monotonic(), self.config.max_seconds
        wishes = {
            "late": limit is not None and self._pace.seconds >= limit,
            "save": now - self._last_save >= self.config.checkpoint.every_s,
            "stop": bool(self._interruption),
        }
        reading = self._step.read(wishes)
        self._pace.read()
        self._epoch = self._feed.cursor.epoch
        self._is_late = reading.wishes["late"]
        self._save_is_due |= reading.wishes["save"]
        self.interrupted = reading.wishes["stop"]
        if reading.num_skipped:
            raise DivergedError(f"a gradient is not finite before {self.targets_seen:,} targets; {LESS_STEEP}")
        reason = self._watch.see(reading.loss, self.targets_seen, reading.num_steps)
        if reason is not None:
            raise DivergedError(f"{reason}; {LESS_STEEP}")
        if self._log is not None and (now - self._last_log >= self.config.log_every_s or self.finished):
            self._log_progress(reading)

    def validate(self, num_targets: int) -> None:
        """Judge the model, report, and save it if it is the best so far."""
        self._pace.stop()
        self._next_validation = self._validation_after(self.targets_seen)
        self.last_rows = self._validation.rows(self.model, num_targets, self.targets_seen, self._pace.seconds)
        if self._log is not None:
            for row in self.last_rows:
                self._log.write(row)
        self._save_is_due |= self._is_best(self.last_rows[0])
        self._report(self.last_rows)

    def save(self, wait: bool = False) -> None:
        """Copy the state and go on; a thread of rank 0 writes it."""
        self._pace.stop()
        self._save_is_due, self._last_save = False, time.monotonic()
        if self._writer is None or self._log is None:
            return
        if not self._writer.save(self._snapshot(), wait=wait):
            self._last_save = -math.inf  # the write before is still under way: all ranks save at a reading to come
            return
        self._held_s = self._writer.held_s
        self._log.write({"kind": "checkpoint", "targets_seen": self.targets_seen, "seconds_held": self._held_s})

    def roll_back(self, reason: str) -> Path | None:
        """Where to go on after a divergence: the newest sound checkpoint, or None for the beginning."""
        if self._writer is not None:
            self._writer.wait()
        there, damaged = agreed_checkpoint(self._place)
        to_targets = 0 if there is None else there.meta["targets_seen"]
        for problem in damaged:
            self._report_problem(problem)
        if self._writer is not None:
            self._writer.drop_after(to_targets)
        if self._log is not None:
            row = {"kind": "rollback", "targets_seen": self.targets_seen, "reason": reason, "to_targets": to_targets}
            self._log.write(row | {"rate_factor": self.config.divergence.lr_factor})
        return None if there is None else there.path

    def _restore(self, path: Path) -> dict[str, Any]:
        """Weights and optimizer of a checkpoint; returns what else it says."""
        load_weights(self.model, path)
        resume = load_resume(path)
        self.optimizer.load_state_dict(resume.get("optimizer") or resume["optimiser"])  # version 0.1: optimiser
        meta = open_checkpoint(path).meta
        check_same_games(meta, self.data)
        return meta

    def _snapshot(self) -> Snapshot:
        meta = {
            "targets_seen": self.targets_seen,
            "step": self.num_updates,
            "seconds": self._pace.seconds,
            "num_parameters": num_parameters(self.model),
            "finished": self.finished and not self.interrupted,
            "games": self._games,
            "metrics": self.last_rows,
            "best": self._best,
            "cursor": asdict(self._feed.cursor),
            "batch_size": self.batch_size,
            "rollbacks": self.rollbacks,
            "divergence": self._watch.state(),
        }
        return Snapshot(
            model_state=self.model.state_dict(),
            config=self.config,
            meta=meta,
            resume={"optimizer": self.optimizer.state_dict()},
        )

    def _order(self, batch_size: int) -> SequenceOrder:
        config = self.config
        return SequenceOrder(
            self.data.train,
            sequence_frames=config.objective.example_frames,
            stride=config.objective.predictions,
            batch_size=batch_size,
            seed=config.seed,
            pool_frames=config.data.pool_frames,
            lanes=config.data.lanes,
        )

    def _open_feed(self, order: SequenceOrder, cursor: Cursor) -> Feed:
        return Feed(
            order,
            self.data.train,
            self.device,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            cursor=cursor,
            data=self.config.data,
            local_ranks=distributed.local_world_size(),
        )

    def _frames_bytes(self, order: SequenceOrder) -> int:
        """What the feed will hold on this worker's device."""
        return bytes_on_device(
            order,
            self.data.train,
            self.device,
            self.config.data,
            world_size=distributed.world_size(),
            local_ranks=distributed.local_world_size(),
        )

    def _report_problem(self, message: str) -> None:
        if self._log is not None:
            self._log.write({"kind": "problem", "targets_seen": self.targets_seen, "message": message})

    @property
    def _place(self) -> str:
        return place_of_checkpoints(self.config)

    def _batch_size(self, meta: dict[str, Any]) -> int:
        """Examples of a batch over all ranks: as configured, as the run began, or as much as fits."""
        if meta:
            return meta["batch_size"]
        size = self.config.optimizer.batch_size
        if size != "auto":
            return size
        reserved = self._frames_bytes(self._order(2 * distributed.world_size()))
        fits = largest_batch(self._step, self.config, self.data.train, self.device, reserved)
        return min(distributed.from_all_ranks(fits)) * distributed.world_size()

    def _learning_rate(self) -> float:
        rate = learning_rate(self.config, self.batch_size, self.targets_seen)
        return rate * self.config.divergence.lr_factor**self.rollbacks

    def _logged_rollbacks(self) -> int:
        logged = self._log.count("rollback") if self._log is not None else 0
        return distributed.from_all_ranks(logged)[0]

    def _validation_after(self, targets_seen: int) -> int:
        every = self.config.eval.every_targets
        return (targets_seen // every + 1) * every

    def _is_best(self, row: Row) -> bool:
        """Whether a validation is the best of the run so far, by loss or by accuracy."""
        better = {
            name: row[name]
            for name, sign in (("val_loss", -1), ("change_acc", 1))
            if row[name] is not None and (name not in self._best or sign * (row[name] - self._best[name]) > 0)
        }
        self._best = self._best | better
        return bool(better)

    def _log_start(self) -> None:
        if self._log is not None:
            row: Row = {
                "kind": "start", "targets_seen": self.targets_seen, "num_parameters": num_parameters(self.model),
                "workers": distributed.world_size(), "device": self.device.type, "train_games": len(self.data.train),
                "train_frames": int(self.data.train.num_frames.sum()), "judged_games": len(self.data.judged),
                "batch_size": self.batch_size, "compiles": self._is_to_be_compiled,
            }  # fmt: skip
            self._log.write(row)

    def _log_progress(self, reading: Reading) -> None:
        """A progress line and the throughput profile."""
        assert self._log is not None
        self._last_log = time.monotonic()
        pace = self._pace.since_last_log(self.targets_seen, self._feed.waited_s)
        row = {
            "kind": "train", "targets_seen": self.targets_seen, "seconds": self._pace.seconds, "loss": reading.loss,
            "action_acc": reading.action_acc, "change_acc": reading.change_acc, **pace,
            "learning_rate": self._learning_rate(), "data": "resident" if self._feed.is_resident else "pools",
            **peak_gb(self.device),
        }  # fmt: skip
        self._log.write(row)
        write_profile(
            self.config.out,
            {
                "device": self.device.type, "workers": distributed.world_size(), "batch_size": self.batch_size,
                "precision": "bf16" if uses_bf16(self.device, self.config.precision) else "fp32",
                "resident": self._feed.is_resident, "targets_per_s": self._pace.steady_targets_per_s,
                "wait_share": pace["wait_share"], "checkpoint_held_s": self._held_s,
                "core": self.config.model.scan_backend, "compiled": is_compiled(self.model),
                **peak_gb(self.device),
            },
        )  # fmt: skip
