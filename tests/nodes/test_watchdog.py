"""When the watchdog ends a machine, by a fake clock and on a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loopback_cluster import LoopbackCluster, Node, loopback_cluster
from ports import free_ports
from waiting import wait_until

from cluster.nodes.watchdog import Limits, Sight, Watch

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(setup_s=1200, head_s=300, idle_s=1800)

BUSY = Sight(head_answers=True, raylet_runs=True, is_used=True)
IDLE = Sight(head_answers=True, raylet_runs=True, is_used=False)
HEADLESS = Sight(head_answers=False, raylet_runs=True, is_used=True)
NO_RAYLET = Sight(head_answers=True, raylet_runs=False, is_used=False)

HOLD_TASK = (
    "import ray, time; ray.init(); file = {file!r}; "
    "ray.get(ray.remote(num_cpus=1)(lambda: (open(file, 'w').close(), time.sleep(1e6))).remote())"
)
HOLD_BUNDLE = (
    "import ray, time; ray.init(); from ray.util.placement_group import placement_group; "
    "ray.get(placement_group([{{'CPU': 1}}]).ready()); open({file!r}, 'w').close(); time.sleep(1e6)"
)
"""Drivers that use the only CPU, and then create a file."""
WAIT = "import ray, time; ray.init(); open({file!r}, 'w').close(); time.sleep(1e6)"
"""A driver that uses nothing."""


def first_end(sights: Callable[[float], Sight], until_s: float = 100_000) -> tuple[float, str] | None:
    """When a watchdog that looks every ten seconds would end the machine, and why."""
    watch = Watch(LIMITS, 0.0)
    for now in range(0, int(until_s), 10):
        if reason := watch.see(float(now), sights(now)):
            return now, reason
    return None


def test_a_machine_in_use_is_never_ended():
    assert first_end(lambda now: BUSY) is None


def test_a_machine_whose_set_up_fails_is_ended():
    ended, reason = first_end(lambda now: NO_RAYLET)
    assert ended == LIMITS.setup_s and "has not started" in reason


def test_a_head_that_does_not_answer_during_the_set_up_is_no_reason():
    assert first_end(lambda now: BUSY if now >= 1000 else Sight(False, False, False), 1500) is None


def test_a_machine_whose_head_is_gone_is_ended_although_it_works():
    ended, reason = first_end(lambda now: BUSY if now < 5000 else HEADLESS)
    assert 5000 + LIMITS.head_s - 10 <= ended <= 5000 + LIMITS.head_s and "head has not answered" in reason


def test_a_head_that_comes_back_in_time_is_forgiven():
    assert first_end(lambda now: HEADLESS if now % 1000 < 290 else BUSY) is None


@pytest.mark.parametrize("sight", [IDLE, NO_RAYLET], ids=["idle", "raylet died"])
def test_a_machine_that_nothing_uses_is_ended(sight):
    ended, reason = first_end(lambda now: BUSY if now < 3000 else sight)
    assert 3000 + LIMITS.idle_s - 10 <= ended <= 3000 + LIMITS.idle_s and "nothing has used" in reason


def test_idle_time_counts_from_the_start_of_ray_and_not_of_the_set_up():
    ended, _ = first_end(lambda now: NO_RAYLET if now < 1100 else IDLE)
    assert ended == 1100 + LIMITS.idle_s


def test_what_the_gcs_says_moves_the_end():
    watch = Watch(LIMITS, 0.0)
    watch.see(0.0, IDLE)
    assert watch.see(2000.0, IDLE)
    watch.used_before(2000.0, idle_s=500.0)
    assert watch.see(2000.0, IDLE) is None
    assert watch.see(1500.0 + LIMITS.idle_s, IDLE)
    watch.used_before(4000.0, idle_s=float("inf"))
    assert watch.see(4000.0, IDLE)


class Watchdog:
    """A watchdog process in the background, which ends its machine by writing a file."""

    def __init__(self, folder: Path, head: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.folder, self.ended = folder, folder / "ended"
        command = [sys.executable, "-m", "cluster.nodes.watchdog", "--head", head, "--folder", str(folder)]
        command += ["--python", sys.executable, "--end", f"date >> {self.ended}", "--every-s", "0.2", *args]
        self.seconds_to_start = time.monotonic()
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        self.seconds_to_start = time.monotonic() - self.seconds_to_start
        wait_until(lambda: bool(self.pid), "a watchdog")

    @property
    def pid(self) -> int | None:
        lock = self.folder / "watchdog.lock"
        words = lock.read_text().split() if lock.exists() else []
        return int(words[0]) if words else None

    @property
    def log(self) -> str:
        path = self.folder / "watchdog.log"
        return path.read_text() if path.exists() else ""


@contextmanager
def watchdogs() -> Iterator[list[Watchdog]]:
    """Ends the watchdogs that are put into the list."""
    started: list[Watchdog] = []
    try:
        yield started
    finally:
        for one in started:
            if one.pid and is_alive(one.pid):
                os.kill(one.pid, 9)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_failed_set_up_ends_the_machine_and_a_second_watchdog_goes_on_counting(tmp_path):
    head = f"127.0.0.1:{free_ports(1)[0]}"
    with watchdogs() as running:
        first = Watchdog(tmp_path, head, "--setup-minutes", "600")
        running.append(first)
        wait_until(lambda: "watching" in first.log, "its log")
        lock = tmp_path / "watchdog.lock"
        pid, began = int(lock.read_text().split()[0]), float(lock.read_text().split()[1])
        assert began <= time.monotonic()
        lock.write_text(f"{pid} {began - 3_600}")  # as if it had begun an hour before
        second = Watchdog(tmp_path, head, "--setup-minutes", "30")
        wait_until(lambda: not is_alive(pid) and second.pid != pid, "the second watchdog")
        wait_until(second.ended.exists, second.log)
        assert "Ray has not started on this machine" in second.log


def test_the_programs_need_neither_the_environment_nor_ray(tmp_path):
    code = "import sys, cluster.nodes.watchdog, cluster.nodes.spot_notices; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert not {"ray", "torch", "numpy"} & set(eval(done.stdout))


@pytest.fixture(scope="module")
def cluster() -> Iterator[LoopbackCluster]:
    with loopback_cluster() as started:
        yield started


def watchdog_of(node: Node, cluster: LoopbackCluster, folder: Path, *args: str) -> Watchdog:
    return Watchdog(folder, cluster.address, "--node-ip", node.address, *args, env=cluster.environment)


@contextmanager
def driver(cluster: LoopbackCluster, code: str, file: Path) -> Iterator[None]:
    """Runs a driver, from the time at which it has created a file."""
    environment = cluster.environment | {"RAY_ADDRESS": cluster.address}
    process = subprocess.Popen([sys.executable, "-c", code.format(file=str(file))], env=environment)
    try:
        wait_until(lambda: file.exists() or process.poll() is not None, "the driver")
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("code", [HOLD_TASK, HOLD_BUNDLE], ids=["task", "placement group"])
def test_a_node_is_ended_when_its_work_has_ended_and_not_before(cluster, tmp_path, code):
    """A task is seen among the processes; a reserved placement group is known to the GCS alone."""
    with watchdogs() as running:
        node = cluster.add_node()
        with driver(cluster, code, tmp_path / "works"):
            watchdog = watchdog_of(node, cluster, tmp_path, "--idle-minutes", "0.05")
            running.append(watchdog)
            wait_until(lambda: "raylet_runs=True" in watchdog.log, "a raylet")
            assert ("is_used=True" in watchdog.log) == (code == HOLD_TASK)
            time.sleep(3 * 0.05 * 60)
            assert not watchdog.ended.exists(), watchdog.log
        wait_until(watchdog.ended.exists, watchdog.log)
        assert "nothing has used this machine" in watchdog.log
        node.kill()


@pytest.mark.slow
def test_a_head_is_ended_when_no_driver_runs_although_a_job_was_submitted_before(cluster, tmp_path):
    """Ray's dashboard is a driver itself from the first job on."""
    cluster.run("ray", "job", "submit", "--address", cluster.url, "--", "true")
    with watchdogs() as running:
        with driver(cluster, WAIT, tmp_path / "works"):
            watchdog = watchdog_of(cluster.head, cluster, tmp_path, "--on-head", "--idle-minutes", "0.05")
            running.append(watchdog)
            wait_until(lambda: "raylet_runs=True" in watchdog.log, "a raylet")
            time.sleep(3 * 0.05 * 60)
            assert not watchdog.ended.exists(), watchdog.log
        wait_until(watchdog.ended.exists, watchdog.log)
        assert "nothing has used this machine" in watchdog.log


@pytest.mark.slow
def test_the_death_of_the_head_ends_the_machines_of_the_cluster(cluster, tmp_path):
    node = cluster.add_node()
    with watchdogs() as running:
        for one, args in ((cluster.head, ["--on-head"]), (node, [])):
            folder = tmp_path / one.address
            running.append(watchdog_of(one, cluster, folder, "--head-minutes", "0.02", *args))
        wait_until(lambda: all("raylet_runs=True" in one.log for one in running), "a raylet")
        assert not any(one.ended.exists() for one in running)
        cluster.head.kill()
        for one in running:
            wait_until(one.ended.exists, one.log)
            assert "the head has not answered" in one.log
