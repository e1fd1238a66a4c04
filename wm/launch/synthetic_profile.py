"""Measures a training step on synthetic frames in this process: a throughput profile for machines without a corpus."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datasets.runtime.process.host_memory import raise_malloc_thresholds
from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.staging import Snapshot
from wm.checkpoints.writer import CheckpointWriter
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.synthetic_batch import synthetic_batch
from wm.model.precision import uses_bf16
from wm.model.world_model import build_model, num_parameters
from wm.training.compilation import compile_during, is_compiled, restore_eager, should_compile
from wm.training.device import agreed_scan_backend, device_name, select_device, set_num_threads
from wm.training.memory_check import check_memory, largest_batch_size
from wm.training.optimizer import Optimizer
from wm.training.throughput import Part, Throughput, peak_gb
from wm.training.train_step import TrainStep

WARM_UP_UPDATES = 3
MANY_FRAMES = 10**12
"""Of a corpus that does not limit the batch size."""


def measure_synthetic(config: RunConfig, seconds: float) -> dict[str, Any]:
    """Measure one worker, without input, evaluations and Ray.

    Args:
        seconds: of updates, after the first ones.
    Returns:
        A throughput profile, see `wm.runs.run.Run.write_profile`.
    Raises:
        UserError: there is no GPU, or an update does not fit in memory.
    """
    device = select_device(config)
    set_num_threads(config, 1)
    if device.type == "cpu":
        raise_malloc_thresholds()
    torch.manual_seed(config.seed)
    scan = agreed_scan_backend(config, device)
    model = build_model(replace(config.model, scan_backend=scan.backend), config.objective.context_frames).to(device)
    optimizer = Optimizer(model, config)
    step = TrainStep(model, optimizer, config, device)
    size = config.optimizer.batch_size
    if size == "auto":
        size = largest_batch_size(step, MANY_FRAMES)
    check_memory(step, size)
    with ExitStack() as closing:
        closing.callback(restore_eager, model)
        throughput = _updates(step, config, size, device, seconds)
        checkpoint, num_bytes = _checkpoint(config, step)
        return {
            "device": device.type, "device_name": device_name(device), "workers": 1,
            "threads": torch.get_num_threads(), "batch_size": size,
            "precision": "bf16" if uses_bf16(device, config.precision) else "fp32", "resident": False,
            "targets_per_s": throughput.steady_targets_per_s, "wait_share": 0.0, **throughput.steady,
            "core": scan.backend, "compiled": is_compiled(model), "cuda_graph": step.is_captured,
            "num_parameters": num_parameters(model), "model": to_plain(config.model),
            "objective": to_plain(config.objective), "checkpoints": checkpoint, "checkpoint_bytes": num_bytes,
            **peak_gb(device), "data": "synthetic",
        }  # fmt: skip


def _updates(step: TrainStep, config: RunConfig, size: int, device: torch.device, seconds: float) -> Throughput:
    """Train on one batch; a first interval of WARM_UP_UPDATES, then one of some seconds."""
    share, rate = synthetic_batch(config, size, device), config.optimizer.learning_rate
    throughput, targets = Throughput(0.0, 0), 0

    def update(number: int) -> None:
        step(share, rate, number)

    throughput.start()
    compiles = should_compile(step.model, config, device)
    failure = compile_during(step.model, partial(update, 0)) if compiles else None
    number = 1 if compiles and failure is None else 0
    started, is_warm = time.monotonic(), False
    while not is_warm or time.monotonic() - started < seconds:
        update(number)
        number += 1
        targets = number * size * config.objective.predictions
        step.synchronize({})
        throughput.update()
        if not is_warm and number >= WARM_UP_UPDATES:
            throughput.since_last_log(targets, 0.0)
            is_warm, started = True, time.monotonic()
    throughput.stop()
    throughput.since_last_log(targets, 0.0)
    return throughput


def _checkpoint(config: RunConfig, step: TrainStep) -> tuple[dict[str, Any], int | None]:
    """Write a checkpoint to a temporary folder: the time that training waits for it, and its size."""
    part = Part()
    with tempfile.TemporaryDirectory(prefix="wm-profile-") as folder:
        snapshot = Snapshot(
            model_state=step.model.state_dict(), config=config, meta={"targets_seen": 0},
            resume={"optimizer": step.optimizer.state_dict()},
        )  # fmt: skip
        with CheckpointWriter(LocalStore(Path(folder)), 1, print) as writer:
            with part.once():
                writer.save(snapshot)
            writer.wait()
            return part.plain(), writer.written_bytes
