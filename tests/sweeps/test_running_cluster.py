"""Sweeps on a cluster: they wait for what the autoscaler can bring, and refuse what no node could have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from autoscaling import autoscaling_cluster
from tiny_sweeps import tiny_sweep

from datasets.runtime import hardware
from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.results.sweep_folder import open_sweep
from tune.running import resources
from tune.running.resources import WaitingNotice, trial_resources, with_workers
from tune.running.sweep import run_sweep
from wm.config.typed_yaml import to_plain


def test_a_relative_folder_is_refused_on_a_cluster_before_anything_starts(tiny_corpus, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"out=runs/x is relative, but the sweep is on a cluster"):
        run_sweep(tiny_sweep(tiny_corpus, Path("runs/x")))
    with pytest.raises(UserError, match=r"base.train_corpus=corpora/x is relative"):
        run_sweep(tiny_sweep(Path("corpora/x"), Path("/shared/x")))


def test_a_trial_of_several_gpus_has_a_worker_for_each_and_reserves_none_itself(tiny_corpus, tmp_path):
    sweep = with_workers(tiny_sweep(tiny_corpus, tmp_path, gpus_per_trial=2.0, base={"use_gpu": True}))
    assert sweep.base.num_workers == 2
    assert trial_resources(sweep) == {"CPU": 0.01, "GPU": 0.0}
    half = with_workers(tiny_sweep(tiny_corpus, tmp_path, gpus_per_trial=0.5, base={"use_gpu": True}))
    assert half.base.num_workers == 1 and trial_resources(half) == {"CPU": 1.0, "GPU": 0.5}
    with pytest.raises(UserError, match=r"gpus_per_trial=4: base.optimizer.batch_size=4 is less than two examples"):
        with_workers(tiny_sweep(tiny_corpus, tmp_path, gpus_per_trial=4.0, base={"use_gpu": True}))
    for gpus, message in ((1.5, "expected whole GPUs"), (1.0, "each worker takes one GPU")):
        with pytest.raises(UserError, match=message):
            tiny_sweep(tiny_corpus, tmp_path, gpus_per_trial=gpus, base={"use_gpu": True, "num_workers": 2})


def test_a_waiting_sweep_says_for_what_and_ends_if_no_node_can_bring_it(tiny_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(resources, "WAITING_EVERY_S", 0.0)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(resources, "is_infeasible", lambda kind, amount: False)
    notice = WaitingNotice(tiny_sweep(tiny_corpus, tmp_path, gpus_per_trial=1.0, base={"use_gpu": True}))
    notice.update(lambda: True)
    assert capsys.readouterr().out == ""
    notice.update(lambda: False)
    assert capsys.readouterr().out == (
        "no trial runs: one needs 1 GPUs and the cluster has 0 now; waiting for more nodes\n"
    )
    monkeypatch.setattr(resources, "is_infeasible", lambda kind, amount: (kind, amount) == ("GPU", 1.0))
    with pytest.raises(UserError, match="needs 1 GPUs on one node, and the cluster's autoscaler has no node type"):
        notice.update(lambda: False)


def test_the_death_of_a_local_ray_ends_a_sweep_instead_of_waiting_for_other_nodes(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resources, "NODE_CHECK_EVERY_S", 0.0)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False}])
    notice = WaitingNotice(tiny_sweep(tiny_corpus, tmp_path))
    with pytest.raises(UserError, match="Ray's processes on this machine have died; run the same command again"):
        notice.update(lambda: False)


@pytest.mark.parametrize(("content", "expected"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1)])
def test_the_cores_of_a_container_are_those_of_its_cpu_time(content, expected, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(content + "\n")
    monkeypatch.setattr(hardware, "CGROUP_CPUS", ((str(tmp_path / "cpu.max"),),))
    monkeypatch.setattr(hardware, "os", SimpleNamespace(sched_getaffinity=lambda _: range(8)))
    assert hardware.num_cores() == expected


def sweep_command(sweep: SweepConfig, address: str) -> subprocess.CompletedProcess[str]:
    """`wm sweep` on a cluster, to its end."""
    config = sweep.out.with_suffix(".yaml")
    config.write_text(json.dumps(to_plain(sweep)))
    environment = os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-m", "wm.cli", "sweep", str(config)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_an_autoscaling_cluster_brings_the_nodes_that_a_sweep_waits_for(tiny_corpus, tmp_path):
    with autoscaling_cluster(tmp_path, {"CPU": 2}, {"CPU": 8, "GPU": 8}, 2) as address:
        waits = tiny_sweep(tiny_corpus, tmp_path / "waits", cpus_per_trial=6.0)
        done = sweep_command(waits, address)
        assert done.returncode == 0, done.stderr
        assert "the cluster has 2 of 6 CPUs now; the job starts when it has grown" in done.stdout
        manifest = open_sweep(waits.out)
        assert [manifest.status(name).state for name in manifest.trials] == ["finished", "finished"]

        gpus = {"gpus_per_trial": 1.0, "base": {"use_gpu": True}}
        has_started = sweep_command(tiny_sweep(tiny_corpus, tmp_path / "gpus", **gpus), address)
        assert "there is no CUDA device" in has_started.stderr  # on the pretended GPU that it waited for

        never = sweep_command(tiny_sweep(tiny_corpus, tmp_path / "never", cpus_per_trial=64.0), address)
        assert never.returncode == 2
        assert "needs 64 CPUs on one node, and the cluster's autoscaler has no node type" in never.stderr
