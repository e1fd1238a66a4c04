"""A run on Ray: it ends, resumes, refuses what is not its own, and survives workers, nodes and bugs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ray.train.v2.api.exceptions import TrainingFailedError
from tiny_runs import STEP, assert_same_weights, checkpoints, run, tiny_run, weights, with_targets
from train_kills import resumed_at

from datasets.runtime.errors import UserError
from wm.config.run_config import CheckpointConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.runs.crash_history import CRASH_FILE, Attempts
from wm.runs.run_folder import read_log
from wm.runs.stop_request import Told


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network."""
    return tiny_run(tiny_corpus, tmp_path / "run")


def test_a_run_on_ray_ends_resumes_and_refuses_what_is_not_its_own(config, ray_session, capfd, tmp_path):
    from wm.launch.ray_train import train_on_ray

    config = replace(with_targets(config, 4), num_workers=2)
    result = train_on_ray(config)
    assert result.targets_seen >= config.optimizer.total_targets
    assert [row["context"] for row in result.rows] == [5]
    assert {row["kind"] for row in read_log(config.out)} >= {"train", "eval"}
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()}

    capfd.readouterr()
    again = train_on_ray(config)
    assert "is finished at" in capfd.readouterr().out
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.is_file()} == before

    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.003 there, 0.1 here"):
        train_on_ray(replace(config, optimizer=replace(config.optimizer, learning_rate=0.1)))

    stranger = tmp_path / "letters"
    stranger.mkdir()
    (stranger / "letter.txt").write_text("dear Ray")
    with pytest.raises(UserError, match="is no run"):
        train_on_ray(replace(config, out=stranger))
    assert [path.name for path in stranger.iterdir()] == ["letter.txt"]


def test_a_run_on_ray_that_cannot_learn_is_a_users_error_and_is_not_restarted(config, ray_session):
    from wm.launch.ray_train import train_on_ray

    hopeless = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30))
    with pytest.raises(UserError, match="not finite"):
        train_on_ray(hopeless)
    assert resumed_at(hopeless) == [0]


@pytest.mark.slow
def test_a_bug_that_comes_back_at_the_same_update_ends_the_run_with_a_diagnosis_and_its_traceback(
    config, ray_session, monkeypatch
):
    import wm.launch.ray_train
    from wm.launch.ray_train import train_on_ray

    worker = wm.launch.ray_train._worker

    def worker_with_a_bug(task) -> None:
        import wm.training.trainer

        update = wm.training.trainer._Run.update

        def update_with_a_bug(self, share) -> None:
            if self.num_updates == 5:
                raise ZeroDivisionError("the fifth update")
            update(self, share)

        wm.training.trainer._Run.update = update_with_a_bug
        worker(task)

    config = replace(config, checkpoint=CheckpointConfig(every_s=600.0), max_failures=20)
    with monkeypatch.context() as patch:
        patch.setattr(wm.launch.ray_train, "_worker", worker_with_a_bug)
        with pytest.raises(UserError) as stopped:
            train_on_ray(config)
    said = str(stopped.value)
    assert "the run died 2 times at about" in said and "\n" not in said
    assert "ZeroDivisionError: the fifth update" in said
    assert str(config.out / CRASH_FILE) in said
    assert (config.out / CRASH_FILE).read_text().count("in update_with_a_bug") == 2
    assert resumed_at(config) == [0, 4 * STEP]  # saved when it was judged

    assert train_on_ray(config).targets_seen >= config.optimizer.total_targets
    assert resumed_at(config) == [0, 4 * STEP, 4 * STEP]


NODE_DIES = """
import json, os, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster

plain = json.loads(sys.argv[1])
impatient = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": impatient})
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
def test_a_run_whose_node_dies_goes_on_at_another_node(config, tmp_path):
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


def test_a_run_waits_for_the_workers_of_a_killed_driver_to_end(tmp_path):
    from wm.launch.train_worker import WORKER_LOCK, _only_writer

    holder = (
        "import sys, time; from pathlib import Path; from datasets.runtime.file_lock import exclusive_lock\n"
        "lock = exclusive_lock(Path(sys.argv[1]), ''); print('held', flush=True); time.sleep(1.5)"
    )
    arguments = [sys.executable, "-c", holder, str(tmp_path / WORKER_LOCK)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with _only_writer(tmp_path):
                assert other.wait(timeout=10) == 0
        finally:
            other.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("events", "max_failures", "num_starts", "is_finished"),
    [
        ("PPPPPF", 0, 6, True),
        ("PDF", 1, 3, True),
        ("DPDF", 1, 3, False),
        ("DPPDPDF", 2, 6, False),
        ("PDF", 0, 2, False),
        ("NF", 0, 1, False),
        ("PNNNF", 1, 4, False),
        ("DDDF", 2, 3, False),
    ],
)
def test_machines_may_go_as_often_as_they_like_but_deaths_are_counted(
    tmp_path, monkeypatch, events, max_failures, num_starts, is_finished
):
    """P: preempted, D: died, N: did not begin, F: finished. What Ray does with its budget stands here in five lines."""
    import wm.launch.ray_train as room

    attempts, left = Attempts(tmp_path, "command"), list(events)

    def ray_with_a_budget(budget: int) -> BaseException | None:
        for number in range(budget + 1):
            event = left.pop(0)
            if event == "F":
                return None
            if event != "N":
                attempts.begin(0)
            if event == "P":
                attempts.preempted()
            if number == budget:
                return TrainingFailedError("in Ray's words")
        return None

    monkeypatch.setattr(room, "_trainer", lambda config, command, max_failures: max_failures)
    monkeypatch.setattr(room, "_run_aside", ray_with_a_budget)
    config = RunConfig(out=tmp_path, max_failures=max_failures)
    failure = room._run_until_over(config, attempts, Told())
    assert (failure is None) == is_finished
    assert len(events) - len(left) == num_starts
    if failure is not None:
        said = room._too_many_deaths(config, attempts, failure)
        assert said.startswith(
            "the run died" if events.count("D") > max_failures else "the run's workers did not begin"
        )
        assert "it goes on from 0 targets" in said


def test_who_tells_a_run_to_stop_while_machines_go_is_not_kept_waiting(tmp_path, monkeypatch):
    import wm.launch.ray_train as room

    attempts, told = Attempts(tmp_path, "command"), Told()

    def preempted(_budget: int) -> BaseException:
        attempts.begin(0)
        attempts.preempted()
        told.signal = signal.SIGTERM
        return TrainingFailedError("in Ray's words")

    monkeypatch.setattr(room, "_trainer", lambda config, command, max_failures: max_failures)
    monkeypatch.setattr(room, "_run_aside", preempted)
    assert room._run_until_over(RunConfig(out=tmp_path, max_failures=0), attempts, told) is not None
    assert len(attempts.past()) == 1
