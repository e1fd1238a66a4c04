"""A run of one or two workers goes on when nodes come and go, with the batches of a run of one worker."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from tiny_runs import checkpoints, tiny_run, with_targets

from datasets.loading.sequences import SequenceOrder
from wm.checkpoints.reader import open_checkpoint
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.batches import BatchLoader
from wm.data.training_data import open_data
from wm.runs.crash_history import ATTEMPTS_FILE, CrashHistory
from wm.runs.run import Run

ELASTIC_RUN = Path(__file__).with_name("elastic_run.py")
MAX_STOP_S = 30.0
"""From a stop request to the end of the command; most of it is Ray's."""


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of a tiny network without an end."""
    config = with_targets(tiny_run(tiny_corpus, tmp_path / "run"), 1_000_000)
    return replace(
        config,
        num_workers=(1, 2),
        num_threads=1,
        max_failures=1,
        compile="never",
        log_every_s=0.5,
        checkpoint=CheckpointConfig(every_s=1.0, keep_last=2),
        eval=replace(config.eval, every_targets=10**9),
    )


def batches_of_one_worker(config: RunConfig, num_updates: int) -> list[list[str]]:
    """The content of each example of a run's first batches."""
    train, objective = open_data(config).train, config.objective
    order = SequenceOrder(
        train,
        sequence_frames=objective.example_frames,
        stride=objective.predictions,
        batch_size=config.optimizer.batch_size,
        seed=config.seed,
        pool_frames=config.data.pool_frames,
        lanes=config.data.lanes,
    )
    with BatchLoader(order, train, torch.device("cpu")) as loader:
        return [
            [
                hashlib.blake2b(floats.numpy().tobytes() + codes.numpy().tobytes(), digest_size=8).hexdigest()
                for floats, codes in zip(batch.frames.floats, batch.frames.codes, strict=True)
            ]
            for batch, _ in zip(loader, range(num_updates), strict=False)
        ]


@dataclass(frozen=True)
class Start:
    """What the workers did between a start and its end."""

    num_workers: int
    updates: dict[int, dict[int, list[str]]]
    """By number and rank: the content of each of the rank's examples."""


def starts_in(folder: Path) -> list[Start]:
    """The starts of the workers that made an update, in order."""
    found: list[Start] = []
    for file in sorted(folder.iterdir()):
        _, world, rank = map(int, file.stem.split("-"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        is_new = not found or found[-1].num_workers != world or any(rank in u for u in found[-1].updates.values())
        if is_new:
            found.append(Start(num_workers=world, updates={}))
        for number, examples in rows:
            found[-1].updates.setdefault(number, {})[rank] = examples
    return found


@pytest.mark.slow
def test_workers_that_come_and_go_take_every_sequence_once_and_a_stop_request_reaches_all_nodes(config, tmp_path):
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(ELASTIC_RUN), json.dumps(to_plain(config)), str(recorded)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1_500)
    assert done.returncode == 0, done.stderr[-3_000:]
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"seconds"')))
    assert facts["stopped_after_s"] < MAX_STOP_S

    starts = starts_in(recorded)
    assert [start.num_workers for start in starts] == [2, 1, 2, 1], facts
    crashed, alone, resized, drained = (sorted(start.updates) for start in starts)
    assert alone[0] <= crashed[-1] + 1, "a killed group repeats the updates since its checkpoint"
    assert resized[0] == alone[-1] + 1, "the run saves before Ray adds a worker"
    assert drained[0] == resized[-1] + 1, "the run saves at notice of a preemption"
    assert [attempt.is_preempted for attempt in CrashHistory(Run(config).files, command_of(config)).attempts()] == [
        False,
        True,  # before Ray adds a worker
        True,
        False,
    ]

    num_updates = open_checkpoint(checkpoints(config)[-1]).meta["step"]
    last = {number: parts for start in starts for number, parts in start.updates.items()}
    for number, batch in enumerate(batches_of_one_worker(config, num_updates)):
        assert list(chain(*(last[number][rank] for rank in sorted(last[number])))) == batch, f"update {number}"


def command_of(config: RunConfig) -> str:
    """The only command of a run."""
    rows = [json.loads(line) for line in (config.out / ATTEMPTS_FILE).read_text().splitlines() if line]
    return rows[0]["command"]
