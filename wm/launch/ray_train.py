"""`wm train`: the plain training function under Ray Train, on one CPU or many GPUs.

Checkpoints are our own, on storage that every worker sees: a worker group that Ray restarts, and a command that is run
again, both go on from the newest sound one. What ends a run for good is written into its folder, and the workers
return: Ray would restart a group that raises.
"""

from __future__ import annotations

import sys
import threading
import uuid
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.v2.api.config as train_config
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2.api.exceptions import TrainingFailedError

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.runtime.object_storage import is_remote
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from wm.checkpoints.reader import newest_meta, newest_sound
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain
from wm.data.training_data import check_same_games, open_data
from wm.launch.train_worker import work
from wm.runs.console import shown
from wm.runs.crash_history import ENDING_FILE, NO_WORDS, Attempts, where_to_look
from wm.runs.run_folder import claim, describe_run, held, place_of_checkpoints
from wm.runs.stop_request import RunStoppedError, Told, stopping_on_signals, tell_this_process_on_sigterm
from wm.training.trainer import TrainResult, use_cores

JOIN_SECONDS = 0.2


def train_on_ray(config: RunConfig) -> TrainResult:
    """Run, or resume, a training run with Ray Train.

    Raises:
        UserError: the run cannot start as configured, its loss exploded, or its workers died too often.
        RunStoppedError: SIGTERM or Ctrl-C told it to stop, and it has saved.
    """
    config = with_absolute_paths(config)
    data = open_data(config)
    claim(config)
    place = place_of_checkpoints(config)
    done, _ = newest_sound(place)
    if done is not None:
        check_same_games(done.meta, data)
        if _is_finished(done.meta, config):
            print(f"{config.out} is finished at {done.meta['targets_seen']:,} targets", flush=True)
            return _result(done.meta)
    with held(config.out):
        describe_run(config, data.train, data.judged, sys.argv)
        _fit(config)
    meta = newest_meta(place)
    if meta is None:
        raise UserError(f"the run in {config.out} ended without a checkpoint; its log is {config.out / 'log.jsonl'}")
    return _result(meta)


def _fit(config: RunConfig) -> None:
    """Run the workers to the end.

    Raises:
        UserError: why the run is over, in a worker's words, or how its workers died.
        RunStoppedError: it was told to stop.
    """
    start_ray(
        min_cpus=1 if config.use_gpu else config.num_workers, min_gpus=config.num_workers if config.use_gpu else 0
    )
    ending = config.out / ENDING_FILE
    ending.unlink(missing_ok=True)
    attempts = Attempts(config.out, uuid.uuid4().hex)
    with shown(config.out, config), stopping_on_signals(config.out) as told:
        failure = _run_until_over(config, attempts, told)
    if ending.exists():
        raise UserError(ending.read_text()) from failure
    if told.signal is not None and not _is_done(config):
        raise _stopped(config, told.signal)
    if isinstance(failure, TrainingFailedError):
        raise UserError(_too_many_deaths(config, attempts, failure)) from failure
    if failure is not None:
        raise failure


def _run_until_over(config: RunConfig, attempts: Attempts, told: Told) -> BaseException | None:
    """Start the workers again as often as machines go: Ray counts that among the failures, of which few are allowed."""
    num_preempted = num_deaths = 0
    while True:
        failure = _run_aside(_trainer(config, attempts.command, config.max_failures - num_deaths))
        past, before = attempts.past(), num_preempted
        num_preempted = sum(one.is_preempted for one in past)
        num_deaths = len(past) - num_preempted
        is_over = told.signal is not None or (config.out / ENDING_FILE).exists()
        may_go_on = num_preempted > before and num_deaths <= config.max_failures
        if is_over or not may_go_on or not isinstance(failure, TrainingFailedError):
            return failure


def _trainer(config: RunConfig, command: str, max_failures: int) -> TorchTrainer:
    return TorchTrainer(
        _worker,
        train_loop_config={"config": to_plain(config), "command": command},
        scaling_config=train_config.ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=_resources(config)
        ),
        run_config=train_config.RunConfig(
            name="ray",
            storage_path=str(config.out),
            failure_config=train_config.FailureConfig(max_failures=max_failures),
            callbacks=cast(Any, [_SavesOnSigterm()]),  # Ray takes internal callbacks too, but does not say so
        ),
    )


def _run_aside(trainer: TorchTrainer) -> BaseException | None:
    """Run in another thread: in the main one, Ray would take Ctrl-C for itself and abort without saving."""
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # whatever it is, the main thread must know
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(JOIN_SECONDS)
    return failures[0] if failures else None


class _SavesOnSigterm(WorkerCallback):
    """Ray Train runs the loop in a thread, where no signal can be caught; this runs in the worker's main thread."""

    def after_init_train_context(self) -> None:
        """Called by Ray on each worker, before the loop begins."""
        tell_this_process_on_sigterm()


def _stopped(config: RunConfig, number: int) -> RunStoppedError:
    """Says where the run stands, for a person."""
    meta = newest_meta(place_of_checkpoints(config))
    at = "before its first checkpoint" if meta is None else f"at {meta['targets_seen']:,} targets, saved"
    print(f"stopped {at}; the same command goes on from there", flush=True)
    return RunStoppedError(128 + number)


def _too_many_deaths(config: RunConfig, attempts: Attempts, failure: TrainingFailedError) -> str:
    """How the last attempts ended, and what to do."""
    meta = newest_meta(place_of_checkpoints(config))
    seen = 0 if meta is None else meta["targets_seen"]
    past = attempts.past()
    deaths = [one for one in past if not one.is_preempted]
    where = where_to_look(config.out)
    on = f"run the same command again: it goes on from {seen:,} targets"
    if len(deaths) <= config.max_failures:  # the other failures are starts that came to nothing
        return f"the run's workers did not begin{' again' if past else ''} ({_last_line(failure)}); {where}, then {on}"
    return (
        f"the run died {len(deaths)} times, last at about {deaths[-1].reached:,} targets (last words: "
        f"{deaths[-1].words or NO_WORDS}); {where}, then {on}; max_failures={config.max_failures} allows more restarts"
    )


def _last_line(failure: TrainingFailedError) -> str:
    return next((line.strip() for line in reversed(str(failure).splitlines()) if line.strip()), "no reason given")


def _resources(config: RunConfig) -> dict[str, float] | None:
    """On a lone CPU machine its cores, shared out: Ray starts a worker with as many OpenMP threads as it has CPUs."""
    if config.use_gpu or uses_cluster():
        return None
    return {"CPU": max(1, min(num_cores(), int(ray.cluster_resources()["CPU"])) // config.num_workers)}


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with paths that hold in workers, which change directory."""
    plain = to_plain(config)
    for room, name in (
        (plain, "train_corpus"),
        (plain, "eval_corpus"),
        (plain, "out"),
        (plain["checkpoint"], "storage_path"),
    ):
        if room[name] is not None and not is_remote(str(room[name])):
            room[name] = str(Path(room[name]).expanduser().resolve())
    return from_plain(plain, RunConfig, "config")


def _worker(task: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    config = from_plain(task["config"], RunConfig, "config")
    if config.use_gpu:
        torch.cuda.set_device(ray.train.torch.get_device())
    use_cores(config, ray.train.get_context().get_local_world_size())
    work(config, task["command"])


def _is_done(config: RunConfig) -> bool:
    meta = newest_meta(place_of_checkpoints(config))
    return meta is not None and _is_finished(meta, config)


def _is_finished(meta: dict[str, Any], config: RunConfig) -> bool:
    """Whether it is through and judged; a run that was told to stop at its last update is not."""
    out_of_time = config.max_seconds is not None and meta["seconds"] >= config.max_seconds
    return meta["finished"] and (out_of_time or meta["targets_seen"] >= config.optimizer.total_targets)


def _result(meta: dict[str, Any]) -> TrainResult:
    return TrainResult(targets_seen=meta["targets_seen"], seconds=meta["seconds"], rows=meta["metrics"])
