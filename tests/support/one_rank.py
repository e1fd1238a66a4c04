"""One of several ranks of training runs, started by `tests/training/test_distributed.py`: RANK WORLD STORE JOBS.

JOBS is a JSON file with a list of {"name", "config", "resume": a run's folder or null, "nan_rank": a rank or null}.
For each, rank r writes `NAME-r.json`: the examples of each update, the validation rows and the error at the end; and
`NAME-r.pt`: its weights.
A single rank runs in-process: `run_job(job, 0)`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from snapshots import list_checkpoints
from torch import Tensor
from torch.optim import _muon

import wm.training.trainer
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.batches import BatchLoader, LocalBatch
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training import distributed
from wm.training.divergence import DivergedError
from wm.training.trainer import train

RESUMED_FROM = 2
"""Index of the checkpoint that a job resumes from; there is one after each update."""


def names_of(share: LocalBatch) -> list[tuple[str, bool]]:
    """Each example of a share by its content, and whether its game has velocities."""
    frames = share.frames
    return [
        (
            hashlib.blake2b(floats.numpy().tobytes() + codes.numpy().tobytes(), digest_size=8).hexdigest(),
            bool(game[1:].all()),
        )
        for floats, codes, game in zip(frames.floats, frames.codes, frames.game, strict=True)
    ]


def orthogonalized(grad: Tensor, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float) -> Tensor:
    """Muon's Newton-Schulz iteration in float32; torch computes it in bfloat16, by kernels that depend on the CPU."""
    a, b, c = ns_coefficients
    is_tall = grad.size(0) > grad.size(1)
    found = grad.T if is_tall else grad
    found = found / found.norm().clamp(min=eps)
    for _ in range(ns_steps):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if is_tall else found


def run_job(job: dict[str, Any], rank: int) -> None:
    """Train, and write what was observed."""
    config = from_plain(job["config"], RunConfig, "test")
    config.out.mkdir(exist_ok=True)
    if config.init_from is not None:
        if rank == 0:
            Run(config).claim()
        distributed.broadcast_object(None)  # claimed before any rank begins
    models, taken, rows, error = [], [], [], ""
    build, following, save = wm.training.trainer.build_model, BatchLoader.__next__, CheckpointWriter.save
    orthogonalize = _muon._zeropower_via_newtonschulz

    def build_and_keep(*arguments: Any) -> Any:
        models.append(build(*arguments))
        return models[-1]

    def take_and_record(self: BatchLoader) -> LocalBatch:
        share = following(self)
        taken.append(names_of(share))
        if job["nan_rank"] == rank:
            share.frames.floats[..., 0] = float("nan")
        return share

    def save_and_wait(self: CheckpointWriter, snapshot: Snapshot, *, wait: bool = False) -> bool:
        return save(self, snapshot, wait=True)  # otherwise a save during another one is skipped

    wm.training.trainer.build_model, BatchLoader.__next__, CheckpointWriter.save = (
        build_and_keep,
        take_and_record,
        save_and_wait,
    )
    _muon._zeropower_via_newtonschulz = orthogonalized
    try:
        resume = job["resume"] and list_checkpoints(Path(job["resume"]) / "checkpoints")[RESUMED_FROM]
        train(Run(config), open_data(config), rows.extend, resume)
    except DivergedError as stopped:
        error = str(stopped)
    finally:
        wm.training.trainer.build_model, BatchLoader.__next__, CheckpointWriter.save = build, following, save
        _muon._zeropower_via_newtonschulz = orthogonalize
    folder = config.out.parent
    torch.save(models[-1].state_dict(), folder / f"{job['name']}-{rank}.pt")
    (folder / f"{job['name']}-{rank}.json").write_text(json.dumps({"taken": taken, "rows": rows, "error": error}))


def main() -> None:
    """Join the process group and run all jobs."""
    rank, world, store, jobs = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for job in json.loads(jobs.read_text()):
        run_job(job, rank)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
