"""A folder that a worker does not share with the driver is refused, whatever lies at the same path on its node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import tiny_run

from datasets.runtime.errors import UserError
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.launch import train_worker
from wm.launch.shared_storage import check_folders, refuse_relative_paths, tokens
from wm.launch.train_worker import work
from wm.runs.run import Run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run whose checkpoints are in a folder of their own."""
    checkpoint = CheckpointConfig(storage_path=str(tmp_path / "store"))
    return replace(tiny_run(tmp_path / "corpus", tmp_path / "run"), checkpoint=checkpoint)


def on_another_node(config: RunConfig, disk: Path) -> RunConfig:
    """The config as a node sees it whose own disk has folders at the same paths."""
    for name in ("run", "store"):
        (disk / name).mkdir(parents=True)
    return replace(config, out=disk / "run", checkpoint=replace(config.checkpoint, storage_path=str(disk / "store")))


def test_folders_that_the_driver_wrote_to_are_shared(config):
    with tokens(config, "command"):
        check_folders(config, "command")
    assert not [path for folder in ("run", "store") for path in config.out.with_name(folder).iterdir()]


@pytest.mark.parametrize("option", ["out", "checkpoint.storage_path"])
def test_a_folder_of_a_nodes_own_disk_is_refused_with_what_to_give(config, tmp_path, option):
    elsewhere = on_another_node(config, tmp_path / "disk")
    seen = replace(config, checkpoint=elsewhere.checkpoint) if option != "out" else replace(config, out=elsewhere.out)
    with tokens(config, "command"), pytest.raises(UserError) as refused:
        check_folders(seen, "command")
    message = str(refused.value)
    assert message.startswith(f"{option}=") and "s3://" in message and "\n" not in message


def test_a_token_that_a_killed_driver_left_counts_for_nobody_else(config):
    config.out.mkdir()
    (config.out / ".driver-killed").touch()
    with tokens(config, "command"):
        check_folders(config, "command")
        with pytest.raises(UserError):
            check_folders(config, "killed")


def test_object_storage_needs_no_token(config):
    remote = replace(config, out="s3://bucket/run", checkpoint=CheckpointConfig())
    with tokens(remote, "command"):
        check_folders(remote, "command")


def test_only_local_relative_paths_are_refused_on_a_cluster(config):
    refuse_relative_paths(config)
    refuse_relative_paths(replace(config, out="s3://bucket/run", checkpoint=CheckpointConfig(storage_path="gs://b/c")))
    refuse_relative_paths(replace(config, out=Path("~/run")))
    with pytest.raises(UserError, match=r"checkpoint\.storage_path=store is relative"):
        refuse_relative_paths(replace(config, checkpoint=CheckpointConfig(storage_path="store")))
    with pytest.raises(UserError, match="init_from=runs/old is relative"):
        refuse_relative_paths(replace(config, init_from="runs/old"))


def test_a_corpus_that_one_node_lacks_is_refused_with_the_nodes_name(config, monkeypatch):
    def of_two_ranks(mine: object) -> list[object]:
        return [("node-with-it", None), ("node-without", mine[1])] if isinstance(mine, tuple) else [mine]

    Run(config).claim()
    monkeypatch.setattr(train_worker.distributed, "all_gather_object", of_two_ranks)
    with pytest.raises(UserError, match=r"holds no corpus.json.*\(on node node-without; other nodes have it\)$"):
        work(Run(config), "command")
