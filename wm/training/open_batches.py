"""Batch size, schedule and batches of a run, once a step is known to fit in memory beside its frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from datasets.loading.sequences import Cursor, SequenceOrder
from wm.data.batches import BatchLoader, device_bytes
from wm.data.training_data import TrainingData
from wm.training import distributed
from wm.training.memory_check import check_memory, largest_batch_size
from wm.training.schedule import Schedule, schedule_for
from wm.training.train_step import TrainStep
from wm.training.validation import validation_device_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """The batches of one rank."""

    loader: BatchLoader
    batch_size: int
    """Examples over all ranks."""
    schedule: Schedule
    shuffle_units: str
    """`SequenceOrder.units_digest`: a run that resumes with others gets another order of batches."""


def open_batches(
    step: TrainStep, data: TrainingData, meta: dict[str, Any], warn: Callable[[str], None], closing: ExitStack
) -> Batches:
    """Choose the batch size, check that a step fits beside the frames, and open the batches; every rank must call.

    Args:
        meta: of the checkpoint that the run resumes from, which keeps batch size and schedule; empty at the beginning.
        warn: takes messages about an older version's checkpoint.
        closing: receives the loader.
    Raises:
        UserError: on every rank: a step does not fit in memory.
    """
    config, device, train, ranks = step.config, step.device, data.train, distributed.world_size()
    sharing: dict[str, Any] = {
        "data": config.data, "world_size": ranks, "local_ranks": distributed.local_world_size(),
    }  # fmt: skip

    def order_of(batch_size: int) -> SequenceOrder:
        """The order of the run's examples, the same for any number of workers."""
        return SequenceOrder(
            train, sequence_frames=config.objective.example_frames, stride=config.objective.predictions,
            batch_size=batch_size, seed=config.seed, pool_frames=config.data.pool_frames, lanes=config.data.lanes,
        )  # fmt: skip

    def reserved_bytes(order: SequenceOrder) -> int:
        return device_bytes(order, train, device, **sharing) + validation_device_bytes(config, device)

    if meta:
        batch_size: int = meta["batch_size"]
    elif config.optimizer.batch_size != "auto":
        batch_size = config.optimizer.batch_size
    else:
        fits = largest_batch_size(step, int(train.num_frames.sum()), reserved_bytes(order_of(ranks)))
        batch_size = min(distributed.all_gather_object(fits)) * ranks
    schedule = Schedule(**meta["schedule"]) if "schedule" in meta else schedule_for(config, batch_size)
    step.optimizer.set_betas(schedule.beta1, schedule.beta2)
    order = order_of(batch_size)
    check_memory(step, -(-batch_size // ranks), reserved_bytes(order))
    cursor = _resumed_cursor(order, meta, warn) if meta else None
    loader = BatchLoader(order, train, device, rank=distributed.rank(), cursor=cursor, **sharing)
    closing.callback(loader.close)
    return Batches(loader=loader, batch_size=batch_size, schedule=schedule, shuffle_units=order.units_digest)


def _resumed_cursor(order: SequenceOrder, meta: dict[str, Any], warn: Callable[[str], None]) -> Cursor:
    """The next batch of a resumed run; a warning if the order of batches is not that of the checkpoint."""
    saved = Cursor(**meta["cursor"])
    cursor = order.nearest(saved, meta.get("order_version", 1))
    if cursor != saved:
        warn(
            "the checkpoint is of a version with another order of batches; continuing at the beginning of pool "
            f"{cursor.pool} of epoch {cursor.epoch}: some of its examples are seen again"
        )
    elif meta.get("shuffle_units", order.units_digest) != order.units_digest:
        warn(
            "the shards of the training corpus were merged since the checkpoint (`wm corpus compact`), which changes "
            f"the order of batches: in the rest of epoch {cursor.epoch} some examples are seen again, and as many are "
            "not seen; the result is not that of an uninterrupted run"
        )
    return cursor
