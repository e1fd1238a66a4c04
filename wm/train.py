"""Training: one plain function that Ray Train wraps, a Tune trial calls, and a test runs in-process.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.corpus import open_corpus
from datasets.errors import UserError
from datasets.frames import GameIndex, index_games
from datasets.sequences import Cursor, SequenceStream
from datasets.targets import COUNTDOWN_FRAMES, Targets, judged_targets
from wm import parallel
from wm.checkpoint import load_resume, load_weights, open_checkpoint, save_checkpoint
from wm.config import RunConfig
from wm.encoding import Frames, category, to_frames
from wm.judge import judge_windows
from wm.losses import OPTIMISED_WEIGHTS, PartSum, optimised_parts
from wm.metrics import concatenate, metrics_of
from wm.model import build_model, num_parameters
from wm.optimiser import learning_rate, make_optimiser
from wm.precision import autocast
from wm.prediction import Prediction
from wm.run_folder import RunLog, checkpoints_of

Row = dict[str, Any]
Report = Callable[[list[Row]], None]
"""Takes the rows of one validation, one for each judged context; called on every rank equally often."""


LESS_STEEP = "lower optimiser.learning_rate, or raise optimiser.warmup_targets"


class NonFiniteLossError(RuntimeError):
    """The loss is not a number any more; every rank stops before the update."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """Games to train on and games to be judged on."""

    train: GameIndex
    judged: GameIndex


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """How a run ended."""

    targets_seen: int
    seconds: float
    """Of training alone: from the first batch asked for to the last update, without validation."""
    rows: list[Row]
    """The last validation, a row for each judged context."""


def open_data(config: RunConfig) -> TrainingData:
    """Open a run's corpora and check that they fit it.

    Raises:
        UserError: a corpus is missing, half-written, of another version, or has no game of the splits needed.
    """
    separate = config.eval_corpus is not None
    corpus = open_corpus(config.train_corpus)
    train = index_games(corpus, config.train_split or ("all" if separate else "train"), config.split)
    judged_corpus = open_corpus(config.eval_corpus) if config.eval_corpus is not None else corpus
    judged_split = config.eval.split or ("all" if separate else "validation")
    judged = index_games(judged_corpus, judged_split, config.split, to_judge=True)
    longest = int(train.num_frames.max())
    if longest < config.objective.example_frames:
        raise UserError(
            f"the longest of {len(train)} games in {config.train_corpus} has {longest} frames, an example needs "
            f"{config.objective.example_frames}; use a smaller context_frames or sequence_frames"
        )
    judged_frames = int(np.maximum(0, judged.num_frames - COUNTDOWN_FRAMES).sum())
    if min(judged_frames, config.eval.num_targets, config.eval.progress_targets) < config.num_workers:
        raise UserError(
            f"{judged_frames} frames can be judged, with num_targets={config.eval.num_targets} and progress_targets="
            f"{config.eval.progress_targets} under `eval`; each of {config.num_workers} workers needs one at least"
        )
    return TrainingData(train=train, judged=judged)


def digest_of_games(data: TrainingData) -> str:
    """Names the games of a run: with others, neither its order of batches nor its judged frames would be the same."""
    digest = hashlib.blake2b(digest_size=8)
    for index in (data.train, data.judged):
        digest.update("\n".join([*index.game_ids, ""]).encode())
    return digest.hexdigest()


def check_same_games(meta: dict[str, Any], data: TrainingData) -> None:
    """Refuse to resume on other games.

    Raises:
        UserError: the corpora have changed since the checkpoint.
    """
    if meta["games"] != digest_of_games(data):
        raise UserError(
            "the games of the run's corpora have changed since its last checkpoint; "
            "train on them in another --out, or bring the old corpora back to resume"
        )


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


def train(config: RunConfig, data: TrainingData, report: Report, resume: Path | None) -> TrainResult:
    """Train, or go on from a checkpoint with the very batch that was next.

    Args:
        report: takes the rows of each validation.
        resume: a checkpoint of this run, or None to begin.
    Raises:
        NonFiniteLossError: on every rank, before the update.
    """
    run = _Run(config, data, report, resume)
    batches = iter(run.stream)
    while not run.finished:
        started = time.monotonic()
        run.update(to_frames(next(batches), run.device))
        run.seconds += time.monotonic() - started
        run.log_when_due()
        if run.validation_is_due:
            run.validate(config.eval.progress_targets)
        if run.checkpoint_is_due:
            run.save()
    run.validate(config.eval.num_targets)
    run.save()
    run.close()
    return TrainResult(targets_seen=run.targets_seen, seconds=run.seconds, rows=run.last_rows)


class _Run:
    """The state of one rank's training."""

    def __init__(self, config: RunConfig, data: TrainingData, report: Report, resume: Path | None) -> None:
        self.config, self.data, self._report = config, data, report
        self.device = pick_device(config)
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, config.objective.context_frames).to(self.device)
        self.optimiser = make_optimiser(self.model, config)
        self.targets_seen, self.step, self.seconds = 0, 0, 0.0
        cursor = None
        if resume is not None:
            cursor = self._restore(resume)
        self._replicated = parallel.replicate(self.model, self.device)
        self.stream = SequenceStream(
            data.train,
            sequence_frames=config.objective.example_frames,
            stride=config.objective.predictions,
            batch_size=config.optimiser.batch_size // parallel.world_size(),
            seed=config.seed,
            rank=parallel.rank(),
            world_size=parallel.world_size(),
            cursor=cursor,
        )
        self._targets = functools.cache(lambda num_targets: judged_targets(data.judged, num_targets))
        self.last_rows: list[Row] = []
        self._out_of_time = config.max_seconds is not None and self.seconds >= config.max_seconds
        self._next_validation = self._validation_after(self.targets_seen)
        self._last_log = self._last_save = time.monotonic()
        self._targets_at_log, self._seconds_at_log = self.targets_seen, self.seconds
        self._latest: tuple[Prediction, Frames, Frames, float] | None = None
        self._log = RunLog(config.out, self.targets_seen) if parallel.rank() == 0 else None
        self._log_start()

    @property
    def finished(self) -> bool:
        return self._out_of_time or self.targets_seen >= self.config.optimiser.total_targets

    @property
    def validation_is_due(self) -> bool:
        return not self.finished and self.targets_seen >= self._next_validation

    @property
    def checkpoint_is_due(self) -> bool:
        """Decided by rank 0, whose clock counts."""
        due = time.monotonic() - self._last_save >= self.config.checkpoint_every_s
        return not self.finished and self._rank_0_says(due)

    def update(self, frames: Frames) -> None:
        """One step of the optimiser over every rank's batch."""
        if self.config.objective.swap_players:
            frames = swap_half(frames, np.random.default_rng([self.config.seed, self.step, parallel.rank()]))
        last = frames.num_frames - 1
        last_only = self.config.objective.kind == "window"
        with autocast(self.device, self.config.precision):
            prediction = self._replicated(frames, last_only=last_only)
        first = last - 1 if last_only else 0
        before, after = frames.slice(first, last), frames.slice(first + 1, last + 1)
        parts = optimised_parts(prediction, before, after)
        loss, shared = self._pooled_loss(parts, frames.floats.shape[0])
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.config, self.targets_seen)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip_norm)
        if not math.isfinite(norm):
            raise NonFiniteLossError(f"the gradient is not finite at {self.targets_seen:,} targets; {LESS_STEEP}")
        self.optimiser.step()
        self.step += 1
        self.targets_seen += int(shared["examples"]) * self.config.objective.predictions
        self._out_of_time = bool(shared["out_of_time"])
        self._latest = (prediction, before, after, shared["loss"])

    def _pooled_loss(self, parts: dict[str, PartSum], num_examples: int) -> tuple[Tensor, dict[str, float]]:
        """The loss to differentiate, and what all ranks agree on: one exchange of a few numbers a step.

        Each part is a mean over the valid entries of all ranks; DDP averages gradients, hence the factor.
        """
        local = torch.stack([torch.stack([p.total.sum(), p.count.sum()]) for p in parts.values()])
        limit = self.config.max_seconds
        late = limit is not None and parallel.rank() == 0 and self.seconds >= limit
        extra = torch.tensor([[float(num_examples), float(late)]], device=self.device)
        pooled = parallel.sum_over_ranks(torch.cat([local.detach(), extra]))
        counts = pooled[:-1, 1].clamp(min=1)
        weights = torch.tensor([OPTIMISED_WEIGHTS[name] for name in parts], device=self.device)
        value = float((weights * pooled[:-1, 0] / counts).sum())
        if not math.isfinite(value):
            names = [n for n, total in zip(parts, pooled[:-1, 0].tolist(), strict=True) if not math.isfinite(total)]
            raise NonFiniteLossError(
                f"the loss is not finite at {self.targets_seen:,} targets (in {', '.join(names)}); {LESS_STEEP}"
            )
        loss = parallel.world_size() * (weights * local[:, 0] / counts).sum()
        return loss, {"loss": value, "examples": float(pooled[-1, 0]), "out_of_time": float(pooled[-1, 1])}

    def log_when_due(self) -> None:
        """A progress line every few seconds, of the last batch."""
        if self._log is None or self._latest is None:
            return
        if time.monotonic() - self._last_log < self.config.log_every_s and not self.finished:
            return
        prediction, before, after, loss = self._latest
        action_acc, change_acc = batch_accuracies(prediction, before, after)
        speed = (self.targets_seen - self._targets_at_log) / max(1e-9, self.seconds - self._seconds_at_log)
        row = {
            "kind": "train", "targets_seen": self.targets_seen, "seconds": self.seconds, "loss": loss,
            "action_acc": action_acc, "change_acc": change_acc, "targets_per_s": speed,
            "learning_rate": learning_rate(self.config, self.targets_seen),
        }  # fmt: skip
        self._log.write(row)
        self._last_log = time.monotonic()
        self._targets_at_log, self._seconds_at_log = self.targets_seen, self.seconds

    def validate(self, num_targets: int) -> None:
        """Judge the model at every context, each rank a share of the targets, and report."""
        self._next_validation = self._validation_after(self.targets_seen)
        targets = self._targets(num_targets)
        share = slice(parallel.rank(), None, parallel.world_size())
        mine = Targets(games=targets.games[share], frames=targets.frames[share])
        rows = []
        for context in self.config.contexts:
            judged = judge_windows(self.model, self.data.judged, mine, context, self.device, self.config.precision)
            metrics = metrics_of(concatenate(parallel.from_all_ranks(judged)))
            row: Row = {
                "kind": "eval", "targets_seen": self.targets_seen, "seconds": self.seconds, "context": context,
                "num_targets": len(targets), "epochs": self.targets_seen / int(self.data.train.num_frames.sum()),
            }  # fmt: skip
            row |= {name: metrics[name].value for name in ("action_acc", "change_acc", "pos_mae", "val_loss")}
            rows.append(row)
            if self._log is not None:
                self._log.write(row)
        self.last_rows = rows
        self._report(rows)

    def save(self) -> None:
        """Write a checkpoint; every rank gives its place in its stream, rank 0 writes."""
        cursors = parallel.from_all_ranks(self.stream.state())
        if parallel.rank() == 0:
            save_checkpoint(
                checkpoints_of(self.config.out),
                model=self.model,
                config=self.config,
                meta={
                    "targets_seen": self.targets_seen,
                    "step": self.step,
                    "seconds": self.seconds,
                    "num_parameters": num_parameters(self.model),
                    "finished": self.finished,
                    "games": digest_of_games(self.data),
                    "metrics": self.last_rows,
                },
                resume={"optimiser": self.optimiser.state_dict(), "cursors": cursors},
                keep=self.config.keep_checkpoints,
            )
        self._last_save = time.monotonic()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _restore(self, path: Path) -> Cursor:
        load_weights(self.model, path)
        state = load_resume(path)
        self.optimiser.load_state_dict(state["optimiser"])
        meta = open_checkpoint(path).meta
        check_same_games(meta, self.data)
        self.targets_seen, self.step, self.seconds = meta["targets_seen"], meta["step"], meta["seconds"]
        cursors = state["cursors"]
        if len(cursors) == parallel.world_size():
            return Cursor(**cursors[parallel.rank()])
        # Another number of workers shares out an epoch in another way, so this one begins anew.
        return Cursor(epoch=max(cursor["epoch"] for cursor in cursors))

    def _validation_after(self, targets_seen: int) -> int:
        every = self.config.eval.every_targets
        return (targets_seen // every + 1) * every

    def _rank_0_says(self, flag: bool) -> bool:
        if parallel.world_size() == 1:
            return flag
        mine = torch.tensor([float(flag and parallel.rank() == 0)], device=self.device)
        return bool(parallel.sum_over_ranks(mine).item())

    def _log_start(self) -> None:
        if self._log is not None:
            row: Row = {
                "kind": "start", "targets_seen": self.targets_seen, "num_parameters": num_parameters(self.model),
                "workers": parallel.world_size(), "device": self.device.type, "train_games": len(self.data.train),
                "train_frames": int(self.data.train.num_frames.sum()), "judged_games": len(self.data.judged),
            }  # fmt: skip
            self._log.write(row)


def swap_half(frames: Frames, random: np.random.Generator) -> Frames:
    """The same frames with the players exchanged in about half of the examples."""
    swapped = torch.from_numpy(random.random(frames.floats.shape[0]) < 0.5).to(frames.floats.device)[
        :, None, None, None
    ]
    return Frames(
        floats=torch.where(swapped, frames.floats.flip(2), frames.floats),
        codes=torch.where(swapped, frames.codes.flip(2), frames.codes),
        game=frames.game,
    )


def batch_accuracies(prediction: Prediction, before: Frames, after: Frames) -> tuple[float, float]:
    """`action_acc` and `change_acc` of one batch."""
    truth = category(after, "action")
    right = prediction.categories["action"].detach().argmax(-1) == truth
    changed = truth != category(before, "action")
    return float(right.float().mean()), float((right & changed).sum() / changed.sum().clamp(min=1))
