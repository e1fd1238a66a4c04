"""One cell of an ablation: a variant trained with one seed, and judged on other games."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measures.in_process import config_with, folder_options

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import FLOAT_COLUMNS, GameIndex, index_games
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from wm.checkpoints.reader import load_model, open_checkpoint
from wm.config.run_config import RunConfig
from wm.config.run_identity import short_hash
from wm.data.training_data import open_data
from wm.evaluation.metrics import METRICS
from wm.evaluation.summary import evaluate
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import GameRules
from wm.model.encoding import Frames
from wm.model.world_model import Mamba2WorldModel, WorldModel, num_parameters
from wm.rollout.dreams import dream
from wm.rollout.judge import SEED, judge, num_context_of
from wm.rollout.starts import random_starts
from wm.runs.run import Run
from wm.training.device import set_num_threads
from wm.training.trainer import train

CONTEXT = 10
"""Frames that the per-frame metrics are measured with."""
HORIZONS = (5, 10, 20, 60)
COHERENCE = (
    *(f"coherence_{n}" for n in HORIZONS), "position_10", "position_20", "action_acc_10", "action_acc_20",
    "action_acc_60", "percent_20", "possible_60", "deaths_right", "phantom_deaths",
)  # fmt: skip
"""Keys of `wm.rollout.coherence` that a row keeps."""
FIELDS = ("state_age", "hitlag", "hitstun", "action")
FIELD_TOLERANCE = 0.2
"""Largest error of a column of FIELDS that counts as none, in its unit."""
FIELD_HORIZONS = (1, 20)
FIELD_METRICS = tuple(f"{name}_right_{n}" for n in FIELD_HORIZONS for name in FIELDS)
"""Keys of `field_shares`."""
VALIDATION_TARGETS = 200
"""Of the validation that ends a training run; the figures come from the evaluation after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What a row of the results is about; a row is found again by all of this."""

    variant: str
    seed: int
    changes: dict[str, Any]
    """Dotted name of a config field -> value."""
    config: str
    train_corpus: str
    eval_corpus: str | None
    """None: the validation games of the training corpus, which are not trained on."""
    total_targets: int
    num_targets: int
    num_starts: int
    further: tuple[str, ...]
    """Options of every variant."""

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        names = (name for name in self.__slots__ if name != "further")
        return {name: getattr(self, name) for name in names} | {"further": list(self.further)}

    @property
    def folder_name(self) -> str:
        """Of its run; other cells have others."""
        return f"{self.variant}-seed-{self.seed}-{short_hash(self.plain())}"


def config_of(cell: Cell, out: Path) -> RunConfig:
    """The run's config. A change of the variant counts more than an option of every variant."""
    games: list[Any] = ["--train-split", "train", "--eval.split", "validation"]
    if cell.eval_corpus is not None:
        games = ["--eval-corpus", Path(cell.eval_corpus).resolve(), "--eval.split", "all"]
    words: list[Any] = [
        *folder_options(Path(cell.train_corpus), out),
        *(*games, "--seed", cell.seed),
        *("--optimizer.total-targets", cell.total_targets, "--compile", "never", "--checkpoint.keep-last", 1),
        *("--eval.every-targets", cell.total_targets, "--eval.contexts", CONTEXT),
        *("--eval.num-targets", VALIDATION_TARGETS, "--eval.validation-targets", VALIDATION_TARGETS),
        *cell.further,
        *(f"--{name}={_text(value)}" for name, value in cell.changes.items()),
    ]
    return config_with(cell.config, words)


def _text(value: Any) -> str:
    """A value as the command line has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def run_cell(cell: Cell, out: Path) -> dict[str, Any]:
    """Train, from the newest checkpoint if there is one, and judge.

    Returns:
        The cell, its costs, and the metrics, as JSON data.
    """
    config = config_of(cell, out)
    set_num_threads(config, 1)
    raise_malloc_thresholds()
    run = Run(config)
    run.claim()
    started, cpu_started = time.monotonic(), time.process_time()
    with contextlib.closing(run.lock()):
        names = run.checkpoints.names()
        resume = run.checkpoints.open(names[-1]).path if names else None
        trained = train(run, open_data(config), lambda _rows: None, resume)
    costs = {
        "resumed": resume is not None,
        "targets": trained.targets_seen,
        "train_s": round(trained.seconds, 1),
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(time.process_time() - cpu_started, 1),
    }
    return cell.plain() | {"commit": _commit()} | costs | judged(cell, out)


def judged(cell: Cell, out: Path) -> dict[str, Any]:
    """Metrics of a trained run on the evaluation games."""
    opened = open_checkpoint(out)
    model = load_model(opened)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus, split = (cell.train_corpus, "validation") if cell.eval_corpus is None else (cell.eval_corpus, "all")
    index = index_games(open_corpus(corpus), split, opened.config.split, for_evaluation=True)
    context = CONTEXT if isinstance(model, Mamba2WorldModel) else model.context_frames
    found = evaluate(model.to(device), index, contexts=[context], num_targets=cell.num_targets, device=device)
    per_frame = found["results"][0]["metrics"]
    dreams = judge(model, index, device, num_starts=cell.num_starts, num_frames=max(HORIZONS))
    metrics = {name: per_frame[name]["value"] for name in METRICS} | {name: dreams[name] for name in COHERENCE}
    baselines = {name: {key: row[key] for key in COHERENCE} for name, row in dreams["baselines"].items()}
    metrics |= field_shares(model, index, device, cell.num_starts)
    events = {name: row[f"coherence_{max(HORIZONS)}"] for name, row in dreams["events"].items()}
    facts = {"num_parameters": num_parameters(model), "metrics": metrics}
    return facts | {"coherence_60_by_event": events, "baselines": baselines}


def field_shares(model: WorldModel, index: GameIndex, device: torch.device, num_starts: int) -> dict[str, float]:
    """Shares of players whose fields are right in a dream's frame 1 (what one step gets wrong) and 20."""
    context = num_context_of(model, None, None)
    starts = random_starts(index, num_starts, num_context=context, num_frames=max(FIELD_HORIZONS), seed=SEED)
    right: dict[str, list[torch.Tensor]] = {}
    for dreams in dream(Imagination(model, GameRules().to(device)), index, starts, device):
        for name in FIELDS:
            column = Frames.float_column if name in FLOAT_COLUMNS else Frames.code_column
            error = (column(dreams.imagined, name) - column(dreams.truth, name)).abs()
            for horizon in FIELD_HORIZONS:
                right.setdefault(f"{name}_right_{horizon}", []).append(error[:, horizon - 1] <= FIELD_TOLERANCE)
    return {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}


def _commit() -> str | None:
    """The commit of the code, if git knows it."""
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip() or None
