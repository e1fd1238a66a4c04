"""What happens to a run in a night: each fault leaves the weights and metrics of an undisturbed run, bit for bit.

The run has two workers on two nodes, and keeps everything in the bucket.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bucket_runs import NUM_UPDATES, TINY, UPDATE, BucketRun
from machines import HOME, SHUTDOWN, Machine, run
from ray_machines import GCS_PORT, RayCluster, finish, wait_until

TRAINS = "^ray::.*TrainWorker"
DRIVER = r"wm\.cli train demo"
METADATA_ADDRESS = "169.254.169.254"
NOTICE_SERVER = Path(__file__).resolve().parents[1] / "support/cluster/notice_server.py"
PREEMPTION_SEEN = "PreemptionWatcher: preemption detected"
"""In the log of the actor that Ray Train watches for it with (Ray 2.60)."""
CUT_S = 30
OUTAGE_S = 60
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.slow]


def start_training(cluster: RayCluster, corpus: str, name: str) -> tuple[BucketRun, subprocess.Popen[str]]:
    """Submit a run that needs both nodes."""
    run = BucketRun(cluster.bucket, name)
    own = ["--train-corpus", corpus, "--out", run.out, "--num-workers", "2"]
    return run, cluster.submit("train", "demo", "--", *own, *TINY)


@pytest.fixture(scope="module")
def undisturbed(started_cluster: RayCluster, corpus: str) -> tuple[bytes, bytes]:
    """Weights and last evaluation of a run that nothing happens to."""
    run, job = start_training(started_cluster, corpus, "undisturbed")
    wait_until(run.checkpoints, "a checkpoint", job)
    assert all(machine.processes(TRAINS) for machine in started_cluster.workers), "one worker on each node"
    finish(job)
    assert run.num_starts() == 1
    return run.result()


@pytest.fixture
def training(cluster: RayCluster, corpus: str, undisturbed, request) -> tuple[BucketRun, subprocess.Popen[str]]:
    """The same run with its first checkpoint in the bucket, and most of it ahead."""
    run, job = start_training(cluster, corpus, request.node.name.removeprefix("test_"))
    wait_until(run.checkpoints, "a checkpoint", job)
    assert run.targets_seen() < NUM_UPDATES * UPDATE / 2
    return run, job


def log_of(program: str, machine: Machine) -> str:
    """What a program of `cluster.nodes` has logged on a machine so far."""
    path = machine.path(f"{HOME}/.wm/node/{program}.log")
    return path.read_text() if path.exists() else ""


def logs_of_ray(cluster: RayCluster, pattern: str) -> str:
    """What Ray has logged in some files of its sessions, on whichever nodes."""
    machines = (cluster.head, *cluster.workers)
    paths = [path for machine in machines for path in machine.path("/tmp/ray").glob(f"session_2*/logs/{pattern}")]
    return "\n".join(path.read_text(errors="replace") for path in paths)


def test_a_worker_node_that_loses_power_is_replaced(cluster, undisturbed, training):
    run_, job = training
    lost = cluster.workers[0]
    lost.lose_power()
    cluster.add_worker("replacement")
    finish(job)
    assert run_.result() == undisturbed
    assert run_.num_starts() == 2
    cluster.network.machines["replacement"].remove()


def test_a_network_that_is_cut_for_half_a_minute(cluster, undisturbed, training):
    run_, job = training
    cut = cluster.workers[0]
    cut.set_link(up=False)
    time.sleep(CUT_S)
    cut.set_link(up=True)
    # Ray may have given the node up, and then its raylet ends: whatever started it starts it again.
    while job.poll() is None:
        if not cut.processes("raylet/raylet"):
            cluster.heal_workers([cut.name])
        time.sleep(1)
    finish(job)
    assert run_.result() == undisturbed


def test_the_bucket_does_not_answer_for_a_minute(cluster, undisturbed, training):
    run_, job = training
    with cluster.bucket.outage(OUTAGE_S):
        pass
    finish(job)
    assert run_.result() == undisturbed
    assert run_.num_starts() == 1, "an outage of the storage ends no worker"


def test_a_killed_driver_is_started_again(cluster, undisturbed, training):
    run_, job = training
    assert cluster.head.kill(DRIVER)
    finish(job)
    assert run_.result() == undisturbed


def test_notice_of_a_preemption_costs_no_update(cluster, undisturbed, training):
    run_, job = training
    # Stopped, the run is certainly in progress when the notice comes, however fast this machine is.
    assert all(machine.kill(TRAINS, signal.SIGSTOP) for machine in cluster.workers)
    spot = cluster.workers[0]
    run("ip", "-n", spot.namespace, "address", "add", f"{METADATA_ADDRESS}/32", "dev", "lo")
    spot.start([sys.executable, NOTICE_SERVER, METADATA_ADDRESS, "/tmp/notice"], subprocess.DEVNULL)
    python = Path(sys.executable)
    spot.run(python, "-m", "cluster.nodes.spot_notices", "--python", python, "--every-s", "0.5")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    spot.path("/tmp/notice.part").write_text(json.dumps({"action": "terminate", "time": at}))
    spot.path("/tmp/notice.part").rename(spot.path("/tmp/notice"))
    wait_until(lambda: "exit code 0" in log_of("spot_notices", spot), "the drain of the node")
    wait_until(lambda: PREEMPTION_SEEN in logs_of_ray(cluster, "worker-*.err"), "Ray Train to see it", job)
    assert all(machine.kill(TRAINS, signal.SIGCONT) for machine in cluster.workers)
    cluster.add_worker("replacement")
    finish(job)
    assert run_.result() == undisturbed
    assert run_.num_starts() == 2
    decisions = logs_of_ray(cluster, "train/*controller*.log").splitlines()
    assert any("Source: preemption" in line and "drain_timed_out=False" in line for line in decisions)
    spot.lose_power()


def test_a_lost_head_ends_its_workers_and_a_new_one_takes_the_job_up(cluster, undisturbed, training):
    run_, job = training
    workers = cluster.workers
    for worker in workers:
        worker.run(
            sys.executable, "-m", "cluster.nodes.watchdog", "--head", f"{cluster.head.address}:{GCS_PORT}",
            "--head-minutes", "0.25", "--every-s", "1", "--end", SHUTDOWN,
        )  # fmt: skip
        wait_until(lambda worker=worker: "raylet_runs=True" in log_of("watchdog", worker), "the watchdog")
    cluster.head.lose_power()
    wait_until(lambda: not any(worker.is_on() for worker in workers), "the watchdogs")
    job.kill()
    job.wait()
    cluster.heal([worker.name for worker in workers])
    # As the start commands of a cluster file do.
    cluster.head.start(["wm", "jobs", "resume", "--every", "5"], subprocess.DEVNULL)
    wait_until(run_.is_finished, "the end of the run")
    assert run_.result() == undisturbed
