"""Copies of a run's state in host memory, so that a thread can write them during training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm.config.run_config import RunConfig

PLAIN_TYPES = (bool, int, float, str, bytes, type(None))
"""What torch.load opens without running pickled code, apart from tensors and containers of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A run's state at one moment; its tensors may change once they have been copied."""

    model_state: dict[str, Tensor]
    config: RunConfig
    meta: dict[str, Any]
    """JSON values; `targets_seen` names the checkpoint. `metrics`: rows of the last validation, each with
    targets_seen, val_loss, change_acc; the first decides which checkpoint is best."""
    resume: dict[str, Any]
    """Further training state: tensors and plain values in dicts, lists and tuples."""
    copied: torch.cuda.Event | None = None
    """Recorded behind the copies from a GPU; None if there are none."""

    def wait(self) -> None:
        """Wait until all copies from a GPU are complete."""
        if self.copied is not None:
            self.copied.synchronize()


class Staging:
    """Host buffers, reused for each snapshot; fresh memory would cost a page fault every 4 KB.

    A GPU's tensors are copied into pinned memory on the training stream: the host only queues the copies, and the next
    update, queued behind them, cannot overwrite what is still to be copied. A separate stream would have to be waited
    for just the same, or need a second copy on the device.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, ...], Tensor] = {}

    def copy(self, snapshot: Snapshot) -> Snapshot:
        """Copy a snapshot; the copy before must not be in use any more.

        Raises:
            TypeError: the snapshot holds what cannot be written as JSON, or not without pickled code.
        """
        on_cuda: list[Tensor] = []
        meta = json.loads(json.dumps(snapshot.meta))
        model_state = self._copied(snapshot.model_state, ("model",), on_cuda)
        resume = self._copied(snapshot.resume, ("resume",), on_cuda)
        event = None
        if on_cuda:
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(on_cuda[0].device))
        return Snapshot(model_state=model_state, config=snapshot.config, meta=meta, resume=resume, copied=event)

    def _copied(self, value: Any, path: tuple[str, ...], on_cuda: list[Tensor]) -> Any:
        if isinstance(value, Tensor):
            if value.is_cuda:
                on_cuda.append(value)
            return self._buffer(value, path).copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {key: self._copied(item, (*path, repr(key)), on_cuda) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self._copied(item, (*path, str(number)), on_cuda) for number, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        if type(value) not in PLAIN_TYPES:
            raise TypeError(f"{'.'.join(path)} is a {type(value).__name__}; expected tensors and plain values")
        return value

    def _buffer(self, like: Tensor, path: tuple[str, ...]) -> Tensor:
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != like.shape or buffer.dtype != like.dtype:
            buffer = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
            self._buffers[path] = buffer
        return buffer
