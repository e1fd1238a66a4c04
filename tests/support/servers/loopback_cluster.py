"""A Ray cluster on loopback whose nodes are `ray start` processes, each with an address of its own, and a token."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from ports import answers, free_ports
from process_guard import guarded, kill_marked

MARK = "WM_TEST_LOOPBACK_CLUSTER"
"""Environment variable that all processes of a node inherit: the end of a test ends these and no others."""
HEAD = "127.0.0.2"
"""Ray replaces 127.0.0.1 by an address of the machine that others reach."""
START_TIMEOUT_S = 180.0
NUM_STARTS = 3
FAST_FAILURE = "health_check_initial_delay_ms=0", "health_check_period_ms=500", "health_check_failure_threshold=3"


class RayNode(Protocol):
    """A `ray start --block`, whose output goes to `log`."""

    @property
    def process(self) -> subprocess.Popen[bytes]: ...

    @property
    def log(self) -> Path: ...

    def kill(self) -> None:
        """End all processes of the node."""


AnyNode = TypeVar("AnyNode", bound=RayNode)


def start_ray_node(start: Callable[[], AnyNode], is_ready: Callable[[AnyNode], bool]) -> AnyNode:
    """Start a node; again if Ray gives up, which waits for 30 seconds only however busy the machine is."""
    for _ in range(NUM_STARTS):
        node = start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while node.process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in node.log.read_text() and is_ready(node):
                return node
            time.sleep(0.1)
        node.kill()
    raise AssertionError(f"a node of Ray did not come up:\n{node.log.read_text()}")


class Node:
    """A node of a `LoopbackCluster`."""

    def __init__(self, cluster: LoopbackCluster, number: int, args: list[str], env: dict[str, str]) -> None:
        self.address, self._mark = f"127.0.0.{number}", f"{cluster.folder}-{number}."
        agent, grpc, export = free_ports(3, self.address)
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", *args,
            f"--node-ip-address={self.address}", "--object-store-memory=100000000", "--min-worker-port=0",
            "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
            f"--metrics-export-port={export}",
        ]  # fmt: skip
        self.log = cluster.folder / f"node-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=cluster.environment | env | {MARK: self._mark}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        """End all processes of the node at once, as a loss of the machine would."""
        kill_marked(f"{MARK}={self._mark}")
        self.process.wait()


class LoopbackCluster:
    """A head and the nodes that are added."""

    def __init__(self, folder: Path, env: dict[str, str], head_cpus: int) -> None:
        self.folder = folder
        token = folder / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        foreign = ("RAY_AUTH", "RAY_ADDRESS", "RAY_API_SERVER", "RAY_TMPDIR")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(folder),
            **dict(f"RAY_{setting}".split("=") for setting in FAST_FAILURE),
            **env,
        }
        gcs, dashboard, client = free_ports(3)
        self.address, self.url = f"{HEAD}:{gcs}", f"http://127.0.0.1:{dashboard}"
        args = [
            "--head", f"--port={gcs}", f"--num-cpus={head_cpus}", "--num-gpus=0", f"--temp-dir={folder}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        ]  # fmt: skip
        self.nodes: list[Node] = []
        self.head = self._start(args, {}, lambda: answers(HEAD, gcs) and answers("127.0.0.1", dashboard))

    def add_node(self, num_cpus: int = 1, env: dict[str, str] | None = None, **options: str) -> Node:
        """Start another node and wait until the head knows it.

        Args:
            env: environment variables of this node's processes alone.
            options: of `ray start`.
        """
        args = [f"--address={self.address}", f"--num-cpus={num_cpus}"]
        args += [f"--{name.replace('_', '-')}={value}" for name, value in ({"num_gpus": "0"} | options).items()]
        return self._start(args, env or {}, lambda: True)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program as on the head, with the cluster's address and token."""
        environment = self.environment | {"RAY_ADDRESS": self.address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0 or not check, done.stdout[-3_000:] + done.stderr[-3_000:]
        return done

    def _start(self, args: list[str], env: dict[str, str], is_ready: Callable[[], bool]) -> Node:
        number = len(self.nodes) + 2
        self.nodes.append(start_ray_node(lambda: Node(self, number, args, env), lambda _node: is_ready()))
        return self.nodes[-1]


@contextmanager
def loopback_cluster(head_cpus: int = 0, env: dict[str, str] | None = None) -> Iterator[LoopbackCluster]:
    """A cluster of a head without CPUs; all its processes end with the block.

    Args:
        env: environment variables of all nodes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="wml", dir="/tmp", ignore_cleanup_errors=True) as folder,
        guarded(f"{MARK}={folder}-"),
    ):
        cluster = LoopbackCluster.__new__(LoopbackCluster)
        try:
            cluster.__init__(Path(folder), env or {}, head_cpus)
            yield cluster
        finally:
            for node in getattr(cluster, "nodes", []):
                node.kill()
