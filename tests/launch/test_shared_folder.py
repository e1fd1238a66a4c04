"""On a cluster, a run whose folder is on one node's disk is refused before it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datasets.runtime.errors import UserError
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.launch.shared_folder import check_nodes_share, refuse_relative_paths
from wm.runs.run import Run


@pytest.fixture
def on_cluster(monkeypatch) -> None:
    """Ray's address in the environment, as in a job."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")


def test_a_relative_folder_is_refused_on_a_cluster_alone(monkeypatch, tmp_path):
    relative = RunConfig(out=Path("runs/run"))
    refuse_relative_paths(relative)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"out: runs/run is relative.* give a folder .* or s3://BUCKET/FOLDER"):
        refuse_relative_paths(relative)
    absolute = replace(relative, out=tmp_path)
    with pytest.raises(UserError, match="storage_path: best is relative"):
        refuse_relative_paths(replace(absolute, checkpoint=CheckpointConfig(storage_path="best")))
    for config in (absolute, replace(absolute, out=Path("~/run")), replace(absolute, out="s3://bucket/run")):
        refuse_relative_paths(config)


def test_every_node_must_see_the_run(ray_session, on_cluster, tmp_path):
    config = RunConfig(out=tmp_path / "run")
    Run(config).claim()
    check_nodes_share(config)
    check_nodes_share(replace(config, out="s3://bucket/run"))


def test_a_node_that_does_not_see_the_run_is_named(ray_session, on_cluster, tmp_path, monkeypatch):
    config = RunConfig(out=tmp_path / "run")
    Run(config).claim()
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"what the driver sees")
    with pytest.raises(UserError, match=r"run is not shared with [0-9.]+ of the cluster; give a folder"):
        check_nodes_share(config)
