"""Connects to a Ray cluster, or starts a local Ray with enough logical CPUs to avoid starvation."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import services
from ray._private.utils import read_ray_address

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores, process_tree
from datasets.runtime.process.termination import TerminatedError, begin_limit
from datasets.runtime.ray_files import ray_temp_dir, set_ray_logs

SPARE_CPUS = 6
"""Logical CPUs beyond the machine's cores on a local Ray. With as many CPUs as workers, a job with data tasks
hangs without a word; logical CPUs cost nothing."""


def start_ray(min_cpus: int = 1, min_gpus: float = 0, object_store_bytes: int | None = None) -> None:
    """Connect to the cluster named by RAY_ADDRESS, or start a local Ray.

    Args:
        min_cpus: logical CPUs that the job will hold at once.
        min_gpus: GPUs that it will hold at once.
        object_store_bytes: shared memory of a local Ray; None leaves it to Ray.
    Raises:
        UserError: no cluster is at the address, or this machine is smaller than the job.
    """
    if not ray.is_initialized():
        _connect(min_cpus, object_store_bytes)
    for kind, needed in (("CPU", min_cpus), ("GPU", min_gpus)):
        available = ray.cluster_resources().get(kind, 0)
        if available >= needed:
            continue
        if not uses_cluster():
            raise UserError(
                f"this Ray has {available:g} {kind}s, the job needs {needed:g} at once; "
                "use fewer workers (and use_gpu: false without a GPU), or a larger cluster by RAY_ADDRESS"
            )
        print(f"the cluster has {available:g} of {needed:g} {kind}s now; the job starts when it has grown", flush=True)


def _connect(min_cpus: int, object_store_bytes: int | None) -> None:
    if not uses_cluster():  # nobody drains the only node
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # a warning that tokens are on
    options = {"logging_level": logging.WARNING, "log_to_driver": False}
    if uses_cluster():
        _join_cluster(options)
        return
    temp_dir = ray_temp_dir()
    _print_running_cluster()

    def start() -> None:
        with _no_processes_left_by_a_failure(), _sigterm_handler_kept():
            ray.init(
                address="local",
                num_cpus=max(num_cores(), min_cpus) + SPARE_CPUS,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                _temp_dir=temp_dir,
                **options,
            )

    start_or_retry(start, Path(temp_dir or get_default_ray_temp_dir(), "session_latest"))
    runtime = ray.get_runtime_context()
    set_ray_logs(Path(runtime.get_temp_dir(), runtime.get_session_name()))
    _hide_token()


def start_or_retry(start: Callable[[], None], logs: Path) -> None:
    """Start Ray; once more if it fails, because on a busy machine its processes may not find each other in time.

    Args:
        logs: folder of Ray's logs, named if it fails again.
    Raises:
        UserError: it failed twice, or because of a setting.
    """
    for is_last in (False, True):
        try:
            start()
            return
        except Exception as error:  # Ray raises Exception itself if a node does not start in time
            reason = (str(error).splitlines() or [""])[0][:200]
            if is_last or isinstance(error, ValueError):  # a setting that Ray cannot use
                set_ray_logs(logs)
                message = f"Ray did not start on this machine ({reason}); run the same command again"
                raise UserError(message) from error
            print(f"Ray did not start ({reason}); trying once more", file=sys.stderr, flush=True)
            ray.shutdown()


def _print_running_cluster() -> None:
    """Say that the cluster which `ray start` has started on this machine is not used."""
    address = read_ray_address(ray_temp_dir())
    if address and address in services.find_gcs_addresses():
        print(
            f"a Ray cluster runs at {address}, but RAY_ADDRESS is not set: this command starts its own Ray, on this "
            f"machine alone; RAY_ADDRESS={address} uses the cluster",
            flush=True,
        )


@contextlib.contextmanager
def _no_processes_left_by_a_failure() -> Iterator[None]:
    """Kill what a start of Ray that does not end has started: Ray ends its raylet, whose agents would stay a while."""
    known = set(process_tree(os.getpid()))
    try:
        yield
    except BaseException:
        for _ in range(2):  # a process may start another one meanwhile
            for pid in process_tree(os.getpid()):
                if pid not in known:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        raise


def _join_cluster(options: dict[str, Any]) -> None:
    address = os.environ["RAY_ADDRESS"]
    if address.startswith("http"):
        raise UserError(
            f"RAY_ADDRESS is {address}, where jobs are submitted; unset it to run here, or use `wm submit` to run there"
        )
    try:
        with _sigterm_handler_kept():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"no Ray answers at RAY_ADDRESS={address} ({reason}); unset it to run here") from error


@contextlib.contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Keep the command's SIGTERM handler: ray.init installs one that exits."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except TerminatedError:
        raise
    except SystemExit as error:  # Ray's handler, while ray.init runs
        begin_limit()
        raise TerminatedError from error
    finally:
        signal.signal(signal.SIGTERM, handler)


def _hide_token() -> None:
    """Ray writes its token as the umask says, which may let every user of the machine read it."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    with contextlib.suppress(OSError):  # none there, or another user's
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterNode:
    """A node that is there now, and what Ray may use of it."""

    node_id: str
    address: str
    num_cpus: float
    memory_bytes: float


def alive_nodes() -> list[ClusterNode]:
    """The nodes of the Ray that this process is connected to."""
    return [
        ClusterNode(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            num_cpus=node["Resources"].get("CPU", 0.0),
            memory_bytes=node["Resources"].get("memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def uses_cluster() -> bool:
    """Whether Ray is a cluster named by RAY_ADDRESS, and not a local one of our own."""
    return bool(os.environ.get("RAY_ADDRESS"))
