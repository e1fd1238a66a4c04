"""`wm train`: the driver of a run whose workers are under Ray Train, on one CPU or many GPUs."""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from wm.config.run_config import RunConfig
from wm.config.run_paths import with_absolute_paths
from wm.launch.driver import drive
from wm.launch.ray_workers import fit_workers
from wm.launch.shared_storage import refuse_relative_paths
from wm.runs.run import Run
from wm.runs.run_log import LOG_FILE
from wm.runs.stop_request import RunStoppedError
from wm.training.trainer import TrainResult


def train_on_ray(config: RunConfig, started_at: float | None = None) -> TrainResult:
    """Start or resume a training run with Ray Train.

    Args:
        started_at: when the command began, as `time.time()`, for the throughput profile; None: now.
    Raises:
        UserError: the run cannot start as configured, its loss diverged, or its workers crashed too often.
        RunStoppedError: SIGTERM or Ctrl-C stopped it, and it has saved.
    """
    if uses_cluster():
        refuse_relative_paths(config)
    run = Run(with_absolute_paths(config), started_at=started_at or time.time())
    meta = drive(run, sys.argv, _fit)
    if meta is None:
        log = run.files.path_of(LOG_FILE)
        raise UserError(f"the run in {run.location} ended without a checkpoint; see its log, {log}")
    return _result(meta)


def _fit(run: Run) -> None:
    """Run the workers to the end.

    Raises:
        UserError: why the run is over.
        RunStoppedError: it was asked to stop.
    """
    config = run.config
    start_ray(
        min_cpus=1 if config.use_gpu else config.min_workers, min_gpus=config.min_workers if config.use_gpu else 0
    )
    with run.stop_request.on_signals():
        fit_workers(run, uuid.uuid4().hex)
    stop_signal = run.stop_request.signal
    if stop_signal is not None and not run.is_complete(meta := run.checkpoints.newest_meta()):
        at = "before its first checkpoint" if meta is None else f"at {meta['targets_seen']:,} targets, saved"
        print(f"stopped {at}; run the same command again to resume", flush=True)
        raise RunStoppedError(128 + stop_signal)


def _result(meta: dict[str, Any]) -> TrainResult:
    return TrainResult(targets_seen=meta["targets_seen"], seconds=meta["seconds"], rows=meta["metrics"])
