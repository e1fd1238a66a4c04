"""What a trial needs of Ray, and whether Ray has it now, may get it, or never will."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray._raylet import GcsClient  # pyrefly: ignore
from ray.core.generated import autoscaler_pb2

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from tune.config import SweepConfig
from wm.config.run_paths import local_paths

TRIAL_OF_WORKERS_CPUS = 0.01
"""Logical CPUs of a trial's process that only starts and awaits workers; they reserve their own."""
WAITING_EVERY_S = 30.0
NODE_CHECK_EVERY_S = 5.0


def refuse_relative_paths(sweep: SweepConfig) -> None:
    """Refuse what a cluster's nodes would each resolve in a directory of their own.

    Raises:
        UserError: a path of the config is relative.
    """
    for name, path in local_paths(replace(sweep.base, out=sweep.out)).items():
        if not path.expanduser().is_absolute():
            field = name if name == "out" else f"base.{name}"
            raise UserError(
                f"{field}={path} is relative, but the sweep is on a cluster (RAY_ADDRESS); give a path that every node "
                "sees, or an s3:// or gs:// URI"
            )


def with_workers(sweep: SweepConfig) -> SweepConfig:
    """The sweep with a worker for each GPU of a trial.

    Raises:
        UserError: the base cannot have so many workers.
    """
    if sweep.gpus_per_trial < 2 or sweep.base.num_workers != 1:
        return sweep
    try:
        return replace(sweep, base=replace(sweep.base, num_workers=int(sweep.gpus_per_trial)))
    except ValueError as error:
        raise UserError(f"gpus_per_trial={sweep.gpus_per_trial:g}: base.{error}") from error


def uses_workers(sweep: SweepConfig) -> bool:
    """Whether a trial has several workers, under Ray Train; otherwise it trains in its own process."""
    return sweep.base.max_workers > 1


def trial_resources(sweep: SweepConfig) -> dict[str, float]:
    """What Tune reserves for a trial's process."""
    if uses_workers(sweep):
        return {"CPU": TRIAL_OF_WORKERS_CPUS, "GPU": 0.0}
    return {"CPU": sweep.cpus_per_trial, "GPU": sweep.gpus_per_trial}


def start_ray_for(sweep: SweepConfig, concurrent: int) -> None:
    """Start a local Ray that has room for all concurrent trials, or join a cluster that has or can get room for one.

    Raises:
        UserError: it has not, and never will have.
    """
    workers = sweep.base.min_workers
    cpus = workers if uses_workers(sweep) and not sweep.base.use_gpu else sweep.cpus_per_trial
    num_trials = 1 if uses_cluster() else concurrent
    start_ray(min_cpus=max(1, math.ceil(cpus * num_trials)), min_gpus=sweep.gpus_per_trial)
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1" if uses_cluster() else "0")


class WaitingNotice:
    """Prints what a sweep waits for while no trial runs, and ends a sweep whose local Ray has died."""

    def __init__(self, sweep: SweepConfig) -> None:
        self._needs = {
            "CPU": float(sweep.base.min_workers) if uses_workers(sweep) else sweep.cpus_per_trial,
            "GPU": sweep.gpus_per_trial,
        }
        if sweep.base.use_gpu:
            self._needs["CPU"] = 0.0
        self._since = self._checked = time.monotonic()

    def update(self, is_running: Callable[[], bool]) -> None:
        """Print a line every WAITING_EVERY_S if nothing runs then.

        Raises:
            UserError: a trial would wait for ever: Ray's only node, this machine's, is dead, or no node that the
                autoscaler may start has what it needs.
        """
        if not uses_cluster() and time.monotonic() - self._checked > NODE_CHECK_EVERY_S:
            self._checked = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                raise UserError("Ray's processes on this machine have died; run the same command again to resume")
        if time.monotonic() - self._since < WAITING_EVERY_S:
            return
        self._since = time.monotonic()
        if not is_running():
            total, free = ray.cluster_resources(), ray.available_resources()
            for kind, needed in self._needs.items():
                if total.get(kind, 0) < needed and is_infeasible(kind, needed):
                    raise UserError(
                        f"a trial needs {needed:g} {kind}s on one node, and the cluster's autoscaler has no node type "
                        f"with as many; set another {kind.lower()}s_per_trial, or add a node type to the cluster"
                    )
            print(f"no trial runs: {_shortage(self._needs, total, free)}", flush=True)


def is_infeasible(kind: str, amount: float) -> bool:
    """Whether Ray's autoscaler has reported that no node it may start has so much; False if there is no report.

    Args:
        kind: CPU or GPU.
        amount: that a pending trial asks for.
    """
    reply = autoscaler_pb2.GetClusterStatusReply()  # pyrefly: ignore
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status())
    state = reply.autoscaling_state
    requests = [*state.infeasible_resource_requests]
    requests += [one for gang in state.infeasible_gang_resource_requests for one in gang.requests]
    return any(request.resources_bundle.get(kind) == amount for request in requests)


def _shortage(needs: dict[str, float], total: dict[str, Any], free: dict[str, Any]) -> str:
    """Which resource one trial waits for."""
    for kind, needed in needs.items():
        if total.get(kind, 0) < needed:
            return (
                f"one needs {needed:g} {kind}s and the cluster has {total.get(kind, 0):g} now; waiting for more nodes"
            )
        if free.get(kind, 0) < needed:
            return (
                f"one needs {needed:g} {kind}s, and {free.get(kind, 0):g} of the cluster's {total[kind]:g} are free; "
                "waiting for other jobs"
            )
    return "the next one is starting"
