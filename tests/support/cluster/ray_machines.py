"""A Ray cluster on machines of the tests: a head node, worker nodes, a token, and a bucket between them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bucket_machine import BUCKET, BucketMachine
from forwarding import Forward
from machines import HOME, ROOT, Machine, Network, network

GCS_PORT, DASHBOARD_PORT = 6379, 8265
CPUS_OF_A_WORKER = 1
"""Logical, so that two workers need two nodes."""
MAX_START_FAILURES = 3
WAIT_S = 900
"""The longest wait for something that must happen, however busy this machine is."""
OBJECT_STORE_BYTES = 100_000_000
STORAGE = f"s3://{BUCKET}"
"""As a cluster file exports it."""
TOKEN_FILE = f"{HOME}/.ray/auth_token"


@dataclass(frozen=True)
class Node:
    """How a node is started."""

    name: str
    address: str | None
    """None: a new one."""
    options: tuple[str, ...]
    """Of `ray start`."""


class RayCluster:
    """Machines with `ray start`, as a cluster file starts them.

    Attributes:
        network: the machines.
        bucket: an S3 server, which every node reaches by AWS_ENDPOINT_URL.
        folder: of this test, for the logs of commands.
        address: URL of the Jobs API, forwarded to this machine as `ray dashboard` does.
    """

    def __init__(self, opened: Network, folder: Path) -> None:
        self.network, self.folder = opened, folder
        self.bucket = BucketMachine(opened)
        self.token_path = folder / "auth_token"
        self.token_path.touch(mode=0o600)
        self.token_path.write_text(secrets.token_hex(32))
        self._nodes: dict[str, Node] = {}
        self._starting: list[tuple[Node, subprocess.Popen[str], int]] = []
        self._head_address = self._start_head().address
        self._forward = Forward(self.head, DASHBOARD_PORT)
        self.address = f"http://127.0.0.1:{self._forward.port}"
        self.wait()

    def _begin(self, node: Node, num_failures: int = 0) -> Machine:
        """A machine as a cluster file sets it up, with the token and the storage's variables; begin `ray start`."""
        machine = self.network.add(node.name, node.address)
        machine.environment |= self.bucket.environment | {"RAY_AUTH_MODE": "token", "WM_STORAGE": STORAGE}
        machine.path(TOKEN_FILE).parent.mkdir(mode=0o700)
        shutil.copy(self.token_path, machine.path(TOKEN_FILE))
        command = ["ray", "start", f"--node-ip-address={machine.address}", "--disable-usage-stats", *node.options]
        command += ["--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        self._nodes[node.name] = node
        self._starting.append((node, machine.start(command, subprocess.PIPE), num_failures))
        return machine

    def _start_head(self, address: str | None = None) -> Machine:
        options = ("--head", f"--port={GCS_PORT}", "--num-cpus=0")
        options += ("--dashboard-host=127.0.0.1", f"--dashboard-port={DASHBOARD_PORT}")
        return self._begin(Node("head", address, options))

    def add_worker(self, name: str, address: str | None = None, num_cpus: int = CPUS_OF_A_WORKER) -> Machine:
        """Begin to start a worker node, which `wait` waits for."""
        return self._begin(Node(name, address, (f"--address={self.head.address}:{GCS_PORT}", f"--num-cpus={num_cpus}")))

    def wait(self) -> None:
        """Wait until all nodes that were added have joined the cluster.

        `ray start` gives its processes 30 seconds (Ray 2.60, without a setting), which are not enough on a busy
        computer. Then the node is started again on a new machine, as an autoscaler does.
        """
        while self._starting:
            node, process, num_failures = self._starting.pop(0)
            printed = process.communicate()[0]
            if process.returncode:
                if num_failures == MAX_START_FAILURES:
                    raise OSError(f"ray start on {node.name}: {printed}")
                address = self.network.machines[node.name].address
                self._remove(node.name)
                self._begin(replace(node, address=address), num_failures + 1)

    @property
    def head(self) -> Machine:
        """The head node's machine."""
        return self.network.machines["head"]

    @property
    def workers(self) -> list[Machine]:
        """The worker nodes' machines."""
        return [machine for name, machine in self.network.machines.items() if name in self._nodes and name != "head"]

    def restart_head(self) -> None:
        """A new head node on the address of the one that was lost."""
        self._start_head(self._head_address)
        self.wait()

    def heal(self, workers: Sequence[str]) -> None:
        """Stop all jobs, and replace the nodes that are missing or lost their connection to the head node."""
        if "head" not in self.network.machines or not self.head.processes("gcs_server"):
            for name in ("head", *workers):
                self._remove(name)
            self.restart_head()
        self.heal_workers(workers)
        stop_jobs = (
            "from ray.job_submission import JobSubmissionClient as Client; client = Client('http://127.0.0.1:8265');"
            "[client.stop_job(job.submission_id) for job in client.list_jobs() if not job.status.is_terminal()]"
        )
        self.head.run("python", "-c", stop_jobs)

    def heal_workers(self, workers: Sequence[str]) -> None:
        """Replace the worker nodes that do not run Ray."""
        for name in workers:
            machine = self.network.machines.get(name)
            if machine is None or not machine.processes("raylet/raylet") or not machine.is_on():
                self._remove(name)
                self.add_worker(name, machine.address if machine else None)
        self.wait()

    def _remove(self, name: str) -> None:
        if machine := self.network.machines.get(name):
            machine.remove()

    def environment(self) -> dict[str, str]:
        """Variables of a laptop that uses the cluster and the bucket through forwarded ports."""
        foreign = ("RAY_", "AWS_", "WM_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | self.bucket.outside | {"RAY_AUTH_TOKEN_PATH": str(self.token_path), "PYTHONPATH": str(ROOT)}

    def wm(self, *arguments: str | Path) -> str:
        """Run `wm` on the laptop until it ends; returns what it printed."""
        return finish(self.start_wm(*arguments))

    def start_wm(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `wm` on the laptop."""
        return subprocess.Popen(
            [sys.executable, "-m", "wm.cli", *map(str, arguments)],
            env=self.environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, verb: str, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `wm submit VERB ARGUMENTS` on the laptop, which follows the job. Overrides come after `--`.

        Without the checks before the job, which the test of the runbook makes.
        """
        own = arguments[: arguments.index("--")] if "--" in arguments else arguments
        return self.start_wm("submit", verb, *own, "--no-preflight", "--address", self.address, *arguments[len(own) :])

    def submit_and_wait(self, verb: str, *arguments: str | Path) -> str:
        """The same until the job has succeeded; returns what it printed."""
        return finish(self.submit(verb, *arguments))

    def close(self) -> None:
        """Stop forwarding; the network ends the rest."""
        self._forward.close()
        self.bucket.close()


@contextlib.contextmanager
def ray_cluster(folder: Path, workers: Sequence[str] = ()) -> Iterator[RayCluster]:
    """A running cluster, removed at the end."""
    with network() as opened:
        cluster = RayCluster(opened, folder)
        try:
            for name in workers:
                cluster.add_worker(name)
            cluster.wait()
            yield cluster
        finally:
            cluster.close()


def wait_until(is_true: Callable[[], object], what: str, job: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that a node does, or a job; a job that ends before it has failed."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for {what}"
        if job is not None and job.poll() is not None and not is_true():
            raise JobFailed(job.returncode, job.args, f"ended before {what}\n{job.communicate()[0]}")
        time.sleep(0.1)


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command; returns what it printed.

    Raises:
        JobFailed: its exit code was not 0.
    """
    printed = process.communicate()[0]
    if process.returncode:
        raise JobFailed(process.returncode, process.args, printed)
    return printed


class JobFailed(subprocess.CalledProcessError):
    """A command failed; the message shows the end of what it printed."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.output[-5_000:]}"
