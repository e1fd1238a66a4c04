"""A run of one or two workers goes on when nodes come and go, with the batches of a run of one worker."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
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


@pytest.mark.slow
def test_workers_that_come_and_go_take_every_sequence_once_and_a_stop_request_reaches_all_nodes(config, tmp_path):
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(ELASTIC_RUN), json.dumps(to_plain(config)), str(recorded)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3_000:]
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"seconds"')))
    assert [workers for workers, _ in facts["starts"]] == [2, 1, 2], facts
    assert facts["stopped_after_s"] < MAX_STOP_S

    meta = open_checkpoint(checkpoints(config)[-1]).meta
    taken: dict[int, dict[str, list[str]]] = {}
    made: list[list[int]] = []
    files = sorted(recorded.iterdir(), key=lambda path: path.name)
    for file in files:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        made.append([number for number, _ in rows])
        _, world, rank = file.stem.split("-")
        for number, examples in rows:
            taken.setdefault(number, {})[f"{world}-{rank}"] = examples
    # An update after the newest checkpoint of a killed group is made again: the last group that made it counts.
    one, two = made[2], made[3]
    assert len(files) == 5  # 2 + 1 + 2 ranks
    assert one[0] <= made[0][-1] + 1, "the killed group had saved"
    assert two[0] == one[-1] + 1, "nothing is lost when Ray adds workers"
    batches = batches_of_one_worker(config, meta["step"])
    assert len(batches) == meta["step"]
    for number, batch in enumerate(batches):
        if number >= two[0] or number < one[0]:
            parts = [taken[number]["2-0"], taken[number]["2-1"]]
        else:
            parts = [taken[number]["1-0"]]
        assert list(chain(*parts)) == batch, f"update {number}"
