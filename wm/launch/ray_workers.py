"""The workers of one run under Ray Train, started by `wm train` or by a trial of a sweep.

Checkpoints are not Ray Train's but in a store that every worker reaches: restarted workers and a repeated command both
resume from the newest intact one. What Ray restarts and what ends the run is decided by `FailurePolicy`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import ray
import ray.train
import torch
from ray.train import ControllerError, TrainingFailedError, UserCallback
from ray.train.torch import TorchTrainer

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.runtime.ray_cluster import uses_cluster
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain
from wm.launch.failure_policy import FailurePolicy
from wm.launch.ray_reporter import RayReporter
from wm.launch.shared_storage import check_folders, tokens
from wm.launch.torch_backend import SavingTorchConfig
from wm.launch.train_worker import RepeatedCrashError, work
from wm.runs.console import print_progress
from wm.runs.crash_history import NO_TRACEBACK, CrashHistory
from wm.runs.run import Run
from wm.training.device import set_num_threads

api: Any = ray.train  # what it exports depends on RAY_TRAIN_V2_ENABLED, which type checkers do not know
JOIN_SECONDS = 0.2
RAY_FOLDER = "ray"
"""In the run's folder: Ray Train's files, a folder for each command. `ray.train.Result.from_path` reads them."""
RESIZE_CHECK_S = 60.0
"""How often Ray looks for room for more workers of an elastic run."""


def fit_workers(
    run: Run,
    command: str,
    *,
    callbacks: Sequence[UserCallback] = (),
    min_report_s: float | None = None,
    num_runs: int = 1,
) -> None:
    """Run the workers to the end of the run, or until it is asked to stop. Ray is connected, the run is locked.

    Args:
        command: identifies one call of the driver.
        callbacks: of Ray Train, besides the failure policy.
        min_report_s: shortest time between two reports of validations to Ray Train; None: the usual one.
        num_runs: that share the cores of this machine.
    Raises:
        UserError: why the run is over, as a worker raised it, or how its workers crashed.
    """
    history = CrashHistory(run.files, command)
    stops_with = None if run.stops_with is None else str(run.stops_with)
    task = {
        "config": to_plain(run.config), "command": command, "stops_with": stops_with, "min_report_s": min_report_s,
        "num_runs": num_runs, "started_at": run.started_at, "retry_s": run.retry_s,
    }  # fmt: skip
    with print_progress(run), tokens(run.config, command):
        failure = _fit_in_thread(_trainer(run, task, [FailurePolicy(), *callbacks]))
    if isinstance(failure, ControllerError) and isinstance(failure.controller_failure, UserError):
        raise failure.controller_failure from failure
    is_stopped = run.stop_request.signal is not None or run.stop_request.is_set_for_run()
    if is_stopped and not run.is_complete(run.checkpoints.newest_meta()):
        return
    if isinstance(failure, TrainingFailedError):
        raise RepeatedCrashError(_crashed_too_often(run, history, failure)) from failure
    if failure is not None:
        raise failure


def _trainer(run: Run, task: dict[str, Any], callbacks: list[UserCallback]) -> TorchTrainer:
    config = run.config
    if uses_cluster():
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # the dashboard's Train page
    filesystem, path = run.files.arrow_path()
    return TorchTrainer(
        _worker,
        train_loop_config=task,
        torch_config=SavingTorchConfig(),
        scaling_config=api.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker=_resources(config, task["num_runs"]),
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,
        ),
        run_config=api.RunConfig(
            # A name of its own: a kill while Ray writes its list of checkpoints would spoil the folder for the next.
            name=f"{run.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}",
            storage_path=f"{path}/{RAY_FOLDER}",
            storage_filesystem=filesystem,
            failure_config=api.FailureConfig(max_failures=config.max_failures, max_preemption_failures=-1),
            callbacks=callbacks,
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


def _resources(config: RunConfig, num_runs: int) -> dict[str, float] | None:
    """On a single CPU machine a share of its cores: Ray gives a worker as many OpenMP threads as it has CPUs."""
    if config.use_gpu or uses_cluster():
        return None
    cores = min(num_cores(), int(ray.cluster_resources()["CPU"]))
    return {"CPU": max(1, cores // (config.max_workers * num_runs))}


def _worker(task: dict[str, Any]) -> None:
    """Runs on each Ray Train worker."""
    config = from_plain(task["config"], RunConfig, "config")
    run = Run(config, task["stops_with"], task["started_at"], task["retry_s"])
    if config.use_gpu:
        torch.cuda.set_device(ray.train.torch.get_device())
    set_num_threads(config, ray.train.get_context().get_local_world_size() * task["num_runs"])
    check_folders(config, task["command"])
    work(run, task["command"], RayReporter(run, task["min_report_s"]))
