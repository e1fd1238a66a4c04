"""`wm train`: the training function under Ray Train, on one CPU or many GPUs.

Checkpoints are not Ray Train's but in a store that every worker reaches: restarted workers and a repeated command both
resume from the newest intact one. What Ray restarts and what ends the run is decided by `FailurePolicy`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from typing import Any

import ray
import ray.train
import torch
from ray.train import ControllerError, TrainingFailedError
from ray.train.torch import TorchTrainer

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from wm.config.run_config import RunConfig
from wm.config.run_paths import with_absolute_paths
from wm.config.typed_yaml import from_plain, to_plain
from wm.data.training_data import check_same_games, open_data
from wm.launch.failure_policy import FailurePolicy
from wm.launch.ray_reporter import RayReporter
from wm.launch.shared_storage import check_folders, refuse_relative_paths, tokens
from wm.launch.torch_backend import SavingTorchConfig
from wm.launch.train_worker import work
from wm.runs.console import print_progress
from wm.runs.crash_history import NO_TRACEBACK, CrashHistory
from wm.runs.run import Run
from wm.runs.run_log import LOG_FILE
from wm.runs.stop_request import RunStoppedError
from wm.training.device import set_num_threads
from wm.training.trainer import TrainResult

api: Any = ray.train  # what it exports depends on RAY_TRAIN_V2_ENABLED, which type checkers do not know
JOIN_SECONDS = 0.2
RAY_FOLDER = "ray"
"""In the run's folder: Ray Train's files, a folder for each command. `ray.train.Result.from_path` reads them."""
RESIZE_CHECK_S = 60.0
"""How often Ray looks for room for more workers of an elastic run."""


def train_on_ray(config: RunConfig) -> TrainResult:
    """Start or resume a training run with Ray Train.

    Raises:
        UserError: the run cannot start as configured, its loss diverged, or its workers crashed too often.
        RunStoppedError: SIGTERM or Ctrl-C stopped it, and it has saved.
    """
    if uses_cluster():
        refuse_relative_paths(config)
    run = Run(with_absolute_paths(config))
    data = open_data(run.config)
    run.claim()
    found, _ = run.checkpoints.newest_intact()
    if found is not None:
        check_same_games(found.meta, data)
        if run.is_complete(found.meta):
            print(f"{run.location} is complete at {found.meta['targets_seen']:,} targets", flush=True)
            return _result(found.meta)
    with run.lock():
        run.describe(data, sys.argv)
        _fit(run)
    meta = run.checkpoints.newest_meta()
    if meta is None:
        log = run.files.path_of(LOG_FILE)
        raise UserError(f"the run in {run.location} ended without a checkpoint; see its log, {log}")
    return _result(meta)


def _fit(run: Run) -> None:
    """Run the workers to the end.

    Raises:
        UserError: why the run is over, as a worker raised it, or how its workers crashed.
        RunStoppedError: it was asked to stop.
    """
    config = run.config
    start_ray(
        min_cpus=1 if config.use_gpu else config.min_workers, min_gpus=config.min_workers if config.use_gpu else 0
    )
    command = uuid.uuid4().hex
    history = CrashHistory(run.files, command)
    with print_progress(run), run.stop_request.on_signals(), tokens(config, command):
        failure = _fit_in_thread(_trainer(run, command))
    stop_signal = run.stop_request.signal
    if isinstance(failure, ControllerError) and isinstance(failure.controller_failure, UserError):
        raise failure.controller_failure from failure
    if stop_signal is not None and not run.is_complete(run.checkpoints.newest_meta()):
        raise _stopped(run, stop_signal)
    if isinstance(failure, TrainingFailedError):
        raise UserError(_crashed_too_often(run, history, failure)) from failure
    if failure is not None:
        raise failure


def _trainer(run: Run, command: str) -> TorchTrainer:
    config = run.config
    if uses_cluster():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard's Train page
    filesystem, path = run.files.arrow_path()
    return TorchTrainer(
        _worker,
        train_loop_config={"config": to_plain(config), "command": command},
        torch_config=SavingTorchConfig(),
        scaling_config=api.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker=_resources(config),
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=api.RunConfig(
            # A name of its own: a kill while Ray writes its list of checkpoints would spoil the folder for the next.
            name=f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{command[:4]}",
            storage_path=f"{path}/{RAY_FOLDER}",
            storage_filesystem=filesystem,
            failure_config=api.FailureConfig(max_failures=config.max_failures, max_preemption_failures=-1),
            callbacks=[FailurePolicy()],
        ),
    )


def _fit_in_thread(trainer: TorchTrainer) -> BaseException | None:
    """Run outside the main thread, where Ray would handle Ctrl-C itself and abort without saving."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # the main thread must know, whatever it is
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(JOIN_SECONDS)
    return failures[0] if failures else None


def _stopped(run: Run, number: int) -> RunStoppedError:
    """Print where the run stopped."""
    meta = run.checkpoints.newest_meta()
    at = "before its first checkpoint" if meta is None else f"at {meta['targets_seen']:,} targets, saved"
    print(f"stopped {at}; run the same command again to resume", flush=True)
    return RunStoppedError(128 + number)


def _crashed_too_often(run: Run, history: CrashHistory, failure: TrainingFailedError) -> str:
    """How the last attempts ended, and what to do."""
    meta = run.checkpoints.newest_meta()
    past = history.attempts()
    crashes = [attempt for attempt in past if not attempt.is_preempted]
    resume = f"run the same command again to resume from {0 if meta is None else meta['targets_seen']:,} targets"
    if isinstance(failure, ControllerError):
        return f"Ray Train's controller failed ({_last_line(failure)}); when that is mended, {resume}"
    if len(crashes) <= run.config.max_failures:  # the other failures are workers that did not start
        again = " again" if past else ""
        return f"the run's workers did not start{again} ({_last_line(failure)}); {history.remedy()}, then {resume}"
    return (
        f"the run crashed {len(crashes)} times, last at about {crashes[-1].reached:,} targets "
        f"({crashes[-1].error or NO_TRACEBACK}); {history.remedy()}, then {resume}; "
        f"max_failures={run.config.max_failures} allows more restarts"
    )


def _last_line(failure: TrainingFailedError) -> str:
    return next((line.strip() for line in reversed(str(failure).splitlines()) if line.strip()), "no reason given")


def _resources(config: RunConfig) -> dict[str, float] | None:
    """On a single CPU machine a share of its cores: Ray gives a worker as many OpenMP threads as it has CPUs."""
    if config.use_gpu or uses_cluster():
        return None
    return {"CPU": max(1, min(num_cores(), int(ray.cluster_resources()["CPU"])) // config.max_workers)}


def _worker(task: dict[str, Any]) -> None:
    """Runs on each Ray Train worker."""
    config = from_plain(task["config"], RunConfig, "config")
    if config.use_gpu:
        torch.cuda.set_device(ray.train.torch.get_device())
    set_num_threads(config, ray.train.get_context().get_local_world_size())
    check_folders(config, task["command"])
    work(config, task["command"], RayReporter(Run(config)))


def _result(meta: dict[str, Any]) -> TrainResult:
    return TrainResult(targets_seen=meta["targets_seen"], seconds=meta["seconds"], rows=meta["metrics"])
