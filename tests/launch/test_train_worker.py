"""A worker goes on from the newest sound checkpoint, whatever happened to newer ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import STEP, assert_same_weights, checkpoints, optimizer_tensors, tiny_run, weights

from wm.config.run_config import RunConfig
from wm.launch.train_worker import work
from wm.runs.crash_history import ATTEMPTS_FILE, ENDING_FILE, Attempts
from wm.runs.run_folder import claim, read_log
from wm.runs.stop_request import STOP_FILE
from wm.training.resume import agreed_checkpoint


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network."""
    return tiny_run(tiny_corpus, tmp_path / "run")


def truncate(checkpoint: Path) -> None:
    """Half of the weights are gone."""
    path = checkpoint / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)


def forget(checkpoint: Path) -> None:
    """The last file to be written is not there."""
    (checkpoint / "meta.json").unlink()


def flip(checkpoint: Path) -> None:
    """One bit of the optimizer's state is wrong."""
    path = checkpoint / "resume.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, forget, flip])
def test_a_damaged_newest_checkpoint_costs_some_updates_and_changes_nothing(config, tmp_path, damage: Callable):
    claim(config)
    work(config, "first")
    broken = replace(config, out=tmp_path / "broken")
    claim(broken)
    work(replace(broken, max_seconds=1e-9), "first")
    work(replace(broken, max_seconds=0.05), "second")
    newest = checkpoints(broken)[-1]
    assert len(checkpoints(broken)) >= 2
    damage(newest)
    work(broken, "third")
    told = [row["message"] for row in read_log(broken.out) if "is damaged" in row.get("message", "")]
    assert [newest.name in one for one in told] == ([] if damage is forget else [True])
    assert not (broken.out / ENDING_FILE).exists()
    ends = checkpoints(config)[-1], checkpoints(broken)[-1]
    assert_same_weights(*(weights(end) for end in ends))
    assert_same_weights(*(optimizer_tensors(end) for end in ends))


def test_a_run_whose_checkpoints_are_all_damaged_stops_instead_of_starting_anew(config):
    claim(config)
    work(replace(config, max_seconds=1e-9), "first")
    for checkpoint in checkpoints(config):
        truncate(checkpoint)
    work(config, "second")
    told = (config.out / ENDING_FILE).read_text()
    assert told.startswith("no checkpoint of the run is sound: ") and "delete them to start anew" in told
    assert "\n" not in told


def test_a_run_that_is_over_is_not_begun_again(config):
    claim(config)
    (config.out / STOP_FILE).touch()
    work(config, "one")
    (config.out / STOP_FILE).unlink()
    (config.out / ENDING_FILE).write_text("the loss exploded")
    work(config, "one")
    assert not (config.out / ATTEMPTS_FILE).exists()
    assert read_log(config.out) == []


def test_a_users_mistake_is_written_down_for_the_driver(config, tmp_path):
    claim(config)
    work(replace(config, train_corpus=tmp_path / "nowhere"), "one")
    assert "nowhere" in (config.out / ENDING_FILE).read_text()


def test_two_deaths_at_the_same_place_end_the_run(config):
    claim(config)
    attempts = Attempts(config.out, "one")
    attempts.begin(0)
    attempts.died(ZeroDivisionError("the fifth update"), rank=0)
    attempts.begin(0)
    attempts.died(ZeroDivisionError("the fifth update"), rank=0)
    work(config, "one")
    said = (config.out / ENDING_FILE).read_text()
    assert "died 2 times" in said and "ZeroDivisionError: the fifth update" in said
    rows = [json.loads(line) for line in (config.out / ATTEMPTS_FILE).read_text().splitlines() if line]
    assert [row["event"] for row in rows] == ["start", "died"] * 2


def test_where_there_is_no_checkpoint_a_run_begins(tmp_path):
    assert agreed_checkpoint(str(tmp_path / "none")) == (None, [])


def test_a_run_saves_where_its_config_says(config, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    config = replace(config, checkpoint=replace(config.checkpoint, storage_path=str(elsewhere)))
    claim(config)
    work(replace(config, max_seconds=1e-9), "one")
    found, damaged = agreed_checkpoint(str(elsewhere))
    assert found is not None and damaged == []
    assert found.meta["targets_seen"] < 10 * STEP
    work(config, "two")
    found, _ = agreed_checkpoint(str(elsewhere))
    assert found is not None and found.meta["finished"]
