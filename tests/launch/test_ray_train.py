"""A run on Ray: it ends, resumes, refuses the folders of others, and survives lost workers, lost nodes and bugs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from object_stores import s3_server
from ray.train import ControllerError, Result
from tiny_runs import STEP, assert_same_weights, checkpoints, run, tiny_run, weights, with_targets
from train_kills import resumed_at

from datasets.runtime.errors import UserError
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.launch.ray_reporter import POINTER_FILE
from wm.runs.crash_history import CRASH_FILE
from wm.runs.run_log import read_log


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network."""
    return tiny_run(tiny_corpus, tmp_path / "run")


def test_a_run_on_ray_ends_resumes_and_refuses_the_folders_of_others(config, ray_session, capfd, tmp_path):
    from wm.launch.ray_train import train_on_ray

    config = replace(with_targets(config, 4), num_workers=2)
    result = train_on_ray(config)
    assert result.targets_seen >= config.optimizer.total_targets
    assert [row["context"] for row in result.rows] == [5]
    assert {row["kind"] for row in read_log(config.out)} >= {"train", "eval"}
    shown = Result.from_path(next((config.out / "ray").iterdir()))
    assert shown.metrics is not None
    assert shown.metrics["eval_5/change_acc"] == result.rows[0]["change_acc"]
    assert shown.metrics["checkpoint"] == str(checkpoints(config)[-1])
    with shown.checkpoint.as_directory() as pointer:
        assert json.loads(Path(pointer, POINTER_FILE).read_text()) == {"checkpoint": shown.metrics["checkpoint"]}
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()}

    capfd.readouterr()
    again = train_on_ray(config)
    assert "is complete at" in capfd.readouterr().out
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()} == before

    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.003 there, 0.1 here"):
        train_on_ray(replace(config, optimizer=replace(config.optimizer, learning_rate=0.1)))

    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear Ray")
    with pytest.raises(UserError, match="is not a run"):
        train_on_ray(replace(config, out=other))
    assert [path.name for path in other.iterdir()] == ["letter.txt"]


@pytest.mark.slow
def test_a_run_on_ray_keeps_everything_in_a_bucket(config, ray_session, capfd, tmp_path, monkeypatch):
    from wm.launch.ray_train import train_on_ray

    monkeypatch.chdir(tmp_path)
    with s3_server() as server:
        in_bucket = replace(with_targets(config, 4), num_workers=2, out=server.uri("run"))
        result = train_on_ray(in_bucket)
        assert train_on_ray(in_bucket) == result
        kept = {key.split("/")[1] for key in server.keys("run/")}
        evaluated = evaluate_checkpoint(server.uri("run"), config.train_corpus, ("5",), num_targets=50)
    assert kept >= {"run.json", "log.jsonl", "tensorboard", "checkpoints", "ray", "attempts.jsonl", "stop"}
    assert evaluated["checkpoint"].startswith("s3://bucket/run/checkpoints/targets-")
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]
    printed = capfd.readouterr().out
    assert "s3://bucket/run is complete at" in printed and "eval K = 5" in printed and "hidden@" not in printed


@pytest.mark.slow
def test_a_diverged_run_on_ray_is_a_users_error_and_is_not_restarted(config, ray_session):
    from wm.launch.ray_train import train_on_ray

    diverging = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30))
    with pytest.raises(UserError, match="not finite") as ended:
        train_on_ray(diverging)
    assert isinstance(ended.value.__cause__, ControllerError)  # of `fit`: the run has failed for Ray
    assert resumed_at(diverging) == [0]


def test_a_relative_path_is_refused_on_a_cluster_before_ray_starts(config, monkeypatch):
    from wm.launch.ray_train import train_on_ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"out=runs/x is relative, but the run is on a cluster .*s3://"):
        train_on_ray(replace(config, out=Path("runs/x")))
    with pytest.raises(
        UserError, match=r"train_corpus=corpora/x is relative.*give a path that every node sees, or an s3://"
    ):
        train_on_ray(replace(config, train_corpus=Path("corpora/x")))


@pytest.mark.slow
def test_a_bug_that_repeats_at_the_same_update_ends_the_run_with_a_diagnosis_and_its_traceback(
    config, ray_session, monkeypatch
):
    import wm.launch.ray_workers
    from wm.launch.ray_train import train_on_ray

    worker = wm.launch.ray_workers._worker

    def worker_with_a_bug(task) -> None:
        import wm.training.trainer

        update = wm.training.trainer.Trainer.update

        def update_with_a_bug(self, share) -> None:
            if self.num_updates == 5:
                raise ZeroDivisionError("the fifth update")
            update(self, share)

        wm.training.trainer.Trainer.update = update_with_a_bug
        worker(task)

    config = replace(config, checkpoint=CheckpointConfig(every_s=600.0), max_failures=20)
    with monkeypatch.context() as patch:
        patch.setattr(wm.launch.ray_workers, "_worker", worker_with_a_bug)
        with pytest.raises(UserError) as stopped:
            train_on_ray(config)
    message = str(stopped.value)
    assert "the run crashed 2 times at about" in message and "\n" not in message
    assert "ZeroDivisionError: the fifth update" in message
    assert str(config.out / CRASH_FILE) in message
    assert (config.out / CRASH_FILE).read_text().count("in update_with_a_bug") == 2
    assert resumed_at(config) == [0, 4 * STEP]  # saved at a validation

    assert train_on_ray(config).targets_seen >= config.optimizer.total_targets
    assert resumed_at(config) == [0, 4 * STEP, 4 * STEP]


NODE_DIES = """
import json, os, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster

plain = json.loads(sys.argv[1])
system_config = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": system_config})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address

import ray
from wm.config.run_config import RunConfig
from wm.launch.ray_train import train_on_ray
from wm.config.typed_yaml import from_plain

config = from_plain(plain, RunConfig, "test")
results = []
thread = threading.Thread(target=lambda: results.append(train_on_ray(config)))
thread.start()
attempts, log = config.out / "attempts.jsonl", config.out / "log.jsonl"
while thread.is_alive() and not (log.exists() and log.read_text().count('"kind": "checkpoint"') >= 3):
    time.sleep(0.05)
busy = [n for n in nodes if ray._private.state.available_resources_per_node().get(n.node_id, {}).get("CPU", 0) < 1]
killed = busy[0].node_id
cluster.remove_node(busy[0], allow_graceful=False)
thread.join()
print(json.dumps({"killed": killed, "targets_seen": results[0].targets_seen}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_run_whose_node_dies_resumes_on_another_node(config, tmp_path):
    config = replace(with_targets(config, 300), checkpoint=CheckpointConfig(every_s=0.3, keep_last=2), log_every_s=0.2)
    run(replace(config, out=tmp_path / "undisturbed"))
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        environment = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        script = [sys.executable, "-c", NODE_DIES, json.dumps(to_plain(config))]
        done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3_000:]
    facts = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"killed"')))
    assert facts["targets_seen"] >= config.optimizer.total_targets
    starts = resumed_at(config)
    assert len(starts) == 2 and 0 == starts[0] < starts[1] < config.optimizer.total_targets
    assert_same_weights(
        weights(checkpoints(replace(config, out=tmp_path / "undisturbed"))[-1]), weights(checkpoints(config)[-1])
    )
