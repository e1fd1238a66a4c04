"""A worker resumes from the newest intact checkpoint, whatever happened to newer ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import STEP, assert_same_weights, checkpoints, optimizer_tensors, tiny_run, weights

from datasets.runtime.errors import UserError
from wm.checkpoints.reader import open_store
from wm.config.run_config import RunConfig
from wm.launch.train_worker import work
from wm.runs.crash_history import ATTEMPTS_FILE, CrashHistory
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.starting_point import agreed_checkpoint
from wm.training.trainer import Trainer


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network."""
    return tiny_run(tiny_corpus, tmp_path / "run")


def work_until(num_updates: int, run: Run, command: str) -> None:
    """Train until the run has made this many updates, as until a time limit."""
    is_over = Trainer.is_over.fget
    assert is_over is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "is_over", property(lambda self: self.num_updates >= num_updates or is_over(self)))
        work(run, command)


def truncate(checkpoint: Path) -> None:
    """Cut the weights in half."""
    path = checkpoint / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def remove_meta(checkpoint: Path) -> None:
    """Delete the last file to be written."""
    (checkpoint / "meta.json").unlink()


def flip_bit(checkpoint: Path) -> None:
    """Flip one bit of the optimizer's state."""
    path = checkpoint / "resume.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, remove_meta, flip_bit])
def test_a_damaged_newest_checkpoint_costs_some_updates_and_changes_nothing(config, tmp_path, damage: Callable):
    Run(config).claim()
    work(Run(config), "first")
    broken = replace(config, out=tmp_path / "broken")
    Run(broken).claim()
    work_until(1, Run(broken), "first")
    work_until(3, Run(broken), "second")
    newest = checkpoints(broken)[-1]
    assert len(checkpoints(broken)) == 3
    damage(newest)
    work(Run(broken), "third")
    reported = [row["message"] for row in read_log(broken.out) if "is damaged" in row.get("message", "")]
    assert [newest.name in message for message in reported] == ([] if damage is remove_meta else [True])
    ends = checkpoints(config)[-1], checkpoints(broken)[-1]
    assert_same_weights(*(weights(end) for end in ends))
    assert_same_weights(*(optimizer_tensors(end) for end in ends))


def test_a_run_whose_checkpoints_are_all_damaged_stops_instead_of_starting_over(config):
    Run(config).claim()
    work_until(1, Run(config), "first")
    for checkpoint in checkpoints(config):
        truncate(checkpoint)
    with pytest.raises(UserError) as refused:
        work(Run(config), "second")
    reason = str(refused.value)
    assert reason.startswith("all checkpoints of the run are damaged: ") and "delete them to start over" in reason
    assert "\n" not in reason


def test_a_run_that_is_asked_to_stop_is_not_started_again(config):
    Run(config).claim()
    Run(config).stop_request.request()
    work(Run(config), "one")
    assert not (config.out / ATTEMPTS_FILE).exists()
    assert read_log(config.out) == []


def test_a_users_error_is_raised_and_is_not_a_crash(config, tmp_path):
    Run(config).claim()
    with pytest.raises(UserError, match="nowhere"):
        work(Run(replace(config, train_corpus=tmp_path / "nowhere")), "one")
    assert not (config.out / ATTEMPTS_FILE).exists()


def test_two_crashes_at_the_same_place_end_the_run(config):
    Run(config).claim()
    history = CrashHistory(Run(config).files, "one")
    history.record_start(0)
    history.record_crash(ZeroDivisionError("the fifth update"), rank=0)
    history.record_start(0)
    history.record_crash(ZeroDivisionError("the fifth update"), rank=0)
    with pytest.raises(UserError) as ended:
        work(Run(config), "one")
    reason = str(ended.value)
    assert "crashed 2 times" in reason and "ZeroDivisionError: the fifth update" in reason
    rows = [json.loads(line) for line in (config.out / ATTEMPTS_FILE).read_text().splitlines() if line]
    assert [row["event"] for row in rows] == ["start", "crash"] * 2


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path):
    assert agreed_checkpoint(open_store(tmp_path / "none")) == (None, [])


def test_a_run_saves_where_its_config_says(config, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    config = replace(config, checkpoint=replace(config.checkpoint, storage_path=str(elsewhere)))
    Run(config).claim()
    work_until(1, Run(config), "one")
    found, damaged = agreed_checkpoint(open_store(elsewhere))
    assert found is not None and damaged == []
    assert found.meta["targets_seen"] < 10 * STEP
    work(Run(config), "two")
    found, _ = agreed_checkpoint(open_store(elsewhere))
    assert found is not None and found.meta["finished"]
