"""`wm train`: the plain training function under Ray Train, on one CPU or many GPUs.

Checkpoints are our own, in the run's folder on storage that every worker sees: a worker group that Ray
restarts, and a command that is run again, both go on from the newest whole one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.v2.api.config as train_config
import torch
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from datasets.errors import UserError
from datasets.ray_start import joined, num_cores, start_ray
from wm.checkpoint import latest_checkpoint, open_checkpoint
from wm.config import RunConfig, from_plain, to_plain
from wm.progress import shown
from wm.run_folder import checkpoints_of, claim, held, read_log
from wm.train import NonFiniteLossError, Row, TrainResult, check_same_games, open_data, train

FAILURE_FILE = "failure.txt"
"""Why the run ended by itself: its loss is not finite any more."""
MISTAKE_FILE = "mistake.txt"
"""What a worker could not start with; a later attempt may succeed."""


def train_on_ray(config: RunConfig) -> TrainResult:
    """Run, or resume, a training run with Ray Train.

    Raises:
        UserError: the run cannot start as configured, or its loss became non-finite.
    """
    config = with_absolute_paths(config)
    data = open_data(config)
    claim(config)
    done = latest_checkpoint(checkpoints_of(config.out))
    if done is not None:
        check_same_games(open_checkpoint(done).meta, data)
    if done is not None and _is_finished(done, config):
        print(f"{config.out} is finished at {open_checkpoint(done).meta['targets_seen']:,} targets", flush=True)
        return _result(config)
    with held(config.out):
        _fit(config)
    return _result(config)


def _fit(config: RunConfig) -> None:
    """Run the workers to the end.

    Raises:
        UserError: what a worker found wrong, in its words.
    """
    start_ray(
        min_cpus=1 if config.use_gpu else config.num_workers, min_gpus=config.num_workers if config.use_gpu else 0
    )
    for name in (FAILURE_FILE, MISTAKE_FILE):
        (config.out / name).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config=to_plain(config),
        scaling_config=train_config.ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=_resources(config)
        ),
        run_config=train_config.RunConfig(
            name="ray",
            storage_path=str(config.out),
            failure_config=train_config.FailureConfig(max_failures=config.max_failures),
        ),
    )
    failure, mistake = config.out / FAILURE_FILE, config.out / MISTAKE_FILE
    try:
        with shown(config.out, config):
            trainer.fit()
    except TrainingFailedError as error:
        if mistake.exists():
            raise UserError(mistake.read_text()) from error
        raise
    if failure.exists():
        raise UserError(failure.read_text())


def _resources(config: RunConfig) -> dict[str, float] | None:
    """On a lone CPU machine its cores, shared out: Ray starts a worker with as many OpenMP threads as it has CPUs."""
    if config.use_gpu or joined():
        return None
    return {"CPU": max(1, min(num_cores(), int(ray.cluster_resources()["CPU"])) // config.num_workers)}


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with paths that hold in workers, which change directory."""
    plain = to_plain(config)
    for name in ("train_corpus", "eval_corpus", "out"):
        if plain[name] is not None:
            plain[name] = str(Path(plain[name]).expanduser().resolve())
    return from_plain(plain, RunConfig, "config")


def _worker(plain: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    config = from_plain(plain, RunConfig, "config")
    world = ray.train.get_context()
    if config.use_gpu:
        torch.cuda.set_device(ray.train.torch.get_device())
    else:
        # Ray gives each worker one OpenMP thread; the cores are there to be used.
        torch.set_num_threads(max(1, num_cores() // world.get_local_world_size()))
    try:
        train(config, open_data(config), _report_to_ray, latest_checkpoint(checkpoints_of(config.out)))
    except NonFiniteLossError as error:
        # Every rank stops with it. Not raised: Ray would restart the run into the same end.
        if world.get_world_rank() == 0:
            (config.out / FAILURE_FILE).write_text(str(error))
    except UserError as error:
        # Perhaps of this worker alone (a corpus that its node does not see), so the others must not wait for it.
        with contextlib.suppress(OSError):
            (config.out / MISTAKE_FILE).write_text(str(error))
        raise


def _report_to_ray(rows: list[Row]) -> None:
    numbers = {f"{name}@{row['context']}": row[name] for row in rows for name in ("change_acc", "pos_mae", "val_loss")}
    ray.train.report(numbers | {"targets_seen": rows[0]["targets_seen"]})


def _is_finished(checkpoint: Path, config: RunConfig) -> bool:
    meta = open_checkpoint(checkpoint).meta
    out_of_time = config.max_seconds is not None and meta["seconds"] >= config.max_seconds
    return out_of_time or meta["targets_seen"] >= config.optimiser.total_targets


def _result(config: RunConfig) -> TrainResult:
    newest = latest_checkpoint(checkpoints_of(config.out))
    if newest is None:
        raise UserError(f"the run in {config.out} ended without a checkpoint; its log is {config.out / 'log.jsonl'}")
    meta = open_checkpoint(newest).meta
    rows = [r for r in read_log(config.out) if r["kind"] == "eval" and r["targets_seen"] == meta["targets_seen"]]
    return TrainResult(targets_seen=meta["targets_seen"], seconds=meta["seconds"], rows=rows)
