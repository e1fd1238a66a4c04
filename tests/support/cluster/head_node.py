"""A head node on loopback, as a user starts it, with a token of its own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loopback_cluster import start_ray_node
from ports import answers, free_ports
from process_guard import guarded, kill_marked, marked

VENV_BIN = Path(sys.executable).parent
MARK = "WM_TEST_CLUSTER"
"""Environment variable that all processes of a head node inherit: its end ends these and no others."""
SHUT_DOWN_S = 90
"""systemd's default between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Head:
    """A running head node."""

    url: str
    token_path: Path
    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def kill(self) -> None:
        """End all processes of the node at once, as when its machine is lost."""
        kill_marked(self.mark)
        self.process.wait()

    def shut_down(self) -> None:
        """Ask all processes of the node to end, as `shutdown` does with those of a machine; then kill the rest."""
        for process_id in marked(self.mark):
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGTERM)
        deadline_s = time.monotonic() + SHUT_DOWN_S
        while marked(self.mark) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        self.kill()


@contextmanager
def head_node(**variables: str) -> Iterator[Head]:
    """`ray start --head` with its own folder and ports.

    Args:
        variables: environment variables of its jobs; WM_STORAGE is by default a folder that ends with the node.
    """
    with (
        tempfile.TemporaryDirectory(prefix="wmc", dir="/tmp", ignore_cleanup_errors=True) as folder,
        guarded(f"{MARK}={folder}"),
    ):
        token_path = Path(folder) / "auth_token"
        token_path.touch(mode=0o600)
        token_path.write_text(secrets.token_hex(32))
        mark = f"{MARK}={folder}"
        # Settings of another Ray cluster must not reach this one.
        foreign = ("RAY_AUTH", "RAY_ADDRESS", "RAY_API_SERVER")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
            "PATH": f"{VENV_BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_path),
            "WM_STORAGE": f"{folder}/storage",
            MARK: folder,
            **variables,
        }
        log_path = Path(folder) / "head.log"

        def start() -> Head:
            gcs, dashboard, client, agent, agent_grpc = free_ports(5)
            command = [VENV_BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=8"]
            command += ["--num-gpus=0", "--object-store-memory=200000000", f"--temp-dir={folder}"]
            command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", "--min-worker-port=0", "--max-worker-port=0"]
            command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--include-dashboard=true"]
            command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
            command += [f"--dashboard-agent-grpc-port={agent_grpc}"]
            with log_path.open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            return Head(f"http://127.0.0.1:{dashboard}", token_path, process, mark, log_path)

        head = start_ray_node(start, lambda one: answers("127.0.0.1", int(one.url.rpartition(":")[2])))
        try:
            yield head
        finally:
            _end(head.process, mark)


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Terminate the head node, then kill the processes that it left, by process id."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill_marked(mark)
