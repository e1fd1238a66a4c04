"""Collective operations of a data-parallel run; without a process group they act on this process alone."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """Rank of this process in the run."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Number of the run's processes on this machine, as torchrun and Ray Train set it; all of them by default."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def replicate(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over ranks, or itself on one rank."""
    if world_size() == 1:
        return model
    ids = [device.index or 0] if device.type == "cuda" else None
    # Buffers are constants, the same on every rank: no broadcast before each step.
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, on every rank; in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_gather_object(obj: T) -> list[T]:
    """Every rank's object, on every rank, in rank order."""
    if world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def broadcast_object(obj: T) -> T:
    """Rank 0's object, on every rank."""
    return all_gather_object(obj)[0]
