"""Joins the Ray that is there, or starts a local one with enough logical CPUs not to starve."""

from __future__ import annotations

import logging
import os

import ray

from datasets.errors import UserError

SPARE_CPUS = 6
"""Logical CPUs beyond the machine's cores on a local Ray. With as many CPUs as workers, a job with data tasks
hangs without a word; logical CPUs cost nothing."""


def start_ray(min_cpus: int = 1) -> None:
    """Connect to the cluster named by RAY_ADDRESS, or start a local Ray.

    Args:
        min_cpus: logical CPUs that the job will hold at once.
    Raises:
        UserError: the cluster is smaller than the job.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if joined():
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        else:
            num_cpus = max(os.cpu_count() or 1, min_cpus) + SPARE_CPUS
            ray.init(num_cpus=num_cpus, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    available = int(ray.cluster_resources().get("CPU", 0))
    if available >= min_cpus:
        return
    if joined():
        print(f"the cluster has {available} of {min_cpus} CPUs now; the job starts when it has grown", flush=True)
        return
    raise UserError(
        f"this Ray has {available} logical CPUs, the job needs {min_cpus} (workers and data tasks); "
        f"start Ray with --num-cpus {min_cpus} or more"
    )


def joined() -> bool:
    """Whether Ray is a cluster named by RAY_ADDRESS, and not a local one of our own."""
    return "RAY_ADDRESS" in os.environ


TASKS_AHEAD = 1
"""Tasks beyond the cores: Ray Data sees a finished task only when it next looks, and a core would idle until then
(a tenth more frames a second on two cores; `benchmarks/encode.py`)."""


def tasks_at_once(num_tasks: int) -> int | None:
    """How many one-CPU tasks to run at once: what keeps a lone machine's cores busy; on a cluster, Ray decides."""
    return None if joined() else min(num_tasks, (os.cpu_count() or 1) + TASKS_AHEAD)
