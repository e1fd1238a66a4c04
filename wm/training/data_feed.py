"""The batches of a run on this rank."""

from __future__ import annotations

from typing import Any

import torch

from datasets.loading.frames import GameIndex
from datasets.loading.sequences import Cursor, SequenceOrder
from wm.config.run_config import RunConfig
from wm.data.batches import BatchLoader, device_bytes
from wm.training import distributed


def sequence_order(config: RunConfig, train: GameIndex, batch_size: int) -> SequenceOrder:
    """The order of a run's examples, the same for any number of workers.

    Args:
        batch_size: examples over all ranks.
    """
    return SequenceOrder(
        train,
        sequence_frames=config.objective.example_frames,
        stride=config.objective.predictions,
        batch_size=batch_size,
        seed=config.seed,
        pool_frames=config.data.pool_frames,
        lanes=config.data.lanes,
    )


def open_feed(
    config: RunConfig, train: GameIndex, order: SequenceOrder, device: torch.device, meta: dict[str, Any]
) -> BatchLoader:
    """This rank's batches, from a checkpoint's position on.

    Args:
        meta: of the checkpoint; empty for a new run.
    """
    return BatchLoader(
        order,
        train,
        device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        cursor=Cursor(**meta["cursor"]) if meta else Cursor(),
        data=config.data,
        local_ranks=distributed.local_world_size(),
    )


def feed_bytes(config: RunConfig, train: GameIndex, order: SequenceOrder, device: torch.device) -> int:
    """Memory on this rank's device that the frames will take."""
    return device_bytes(
        order,
        train,
        device,
        config.data,
        world_size=distributed.world_size(),
        local_ranks=distributed.local_world_size(),
    )
