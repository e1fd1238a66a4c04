"""One update at full size before the data starts, on made-up frames: out of memory shows now, not in the night.

It leaves weights, optimizer and random numbers as they were, bit for bit. No rank waits for another one during it:
one that runs out of memory would let the others wait for ever. It is a part of `Step`'s room, and looks into it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datasets.loading.frames import GameIndex
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.data.pools import BYTES_PER_FRAME
from wm.data.synthetic_batch import made_up_share
from wm.model.precision import uses_bf16
from wm.model.world_model import num_parameters
from wm.training import distributed
from wm.training.host_memory import PeakOfHost, available_bytes, give_back
from wm.training.train_step import NonFiniteGradientError, Step

MAX_AUTO_BATCH = 4_096
"""Examples of a worker that `batch_size: auto` takes at most: larger batches learn no faster from a game."""
LEAST_UPDATES_AN_EPOCH = 64
MAX_GPU_SHARE = 0.85
"""Of what the frames leave of a GPU's memory, that `batch_size: auto` fills: the rest is for the judge."""
MAX_CPU_SHARE = 0.25
MEASURABLE_BYTES = 200 * 10**6
"""A step's peak from which on the noise of a process' memory (some 10 MB) counts little."""
MARGIN = 1.25
"""With it, extrapolated peaks were 0.99 to 1.54 times the measured ones (15 runs of a small, the medium and the large
network, 32 to 256 examples; 2 shared CPU cores, 2026-11-23): rather too much than a process that the system kills."""
CROWDED_SHARE = 0.25
"""Of the free memory, from which on the frames are named among what may be made smaller."""
AUGMENTED_COPIES = 4
"""Of a batch's frames, while its players are exchanged or its sides mirrored."""
OUT_OF_MEMORY_SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory")
GB = 1e9


def dry_step(step: Step, config: RunConfig, batch_size: int, reserved_bytes: int = 0) -> None:
    """Make one update of a full batch; every rank must call.

    Args:
        batch_size: examples of this worker.
        reserved_bytes: of the device, for the frames.
    Raises:
        UserError: on every rank: it does not fit in a rank's memory.
    """
    with _untouched(step, config):
        on_gpu = step.device.type == "cuda"
        find = _problem_on_gpu if on_gpu else _problem_on_cpu
        problem = find(step, config, batch_size, reserved_bytes)
    problems = [one for one in distributed.from_all_ranks(problem) if one is not None]
    if problems:
        raise UserError(problems[0])


def largest_batch(
    step: Step, config: RunConfig, train: GameIndex, device: torch.device, reserved_bytes: int = 0
) -> int:
    """Examples of this worker for `batch_size: auto`: the largest power of two that fits in its memory.

    A GPU is filled to MAX_GPU_SHARE, found by trying; a CPU's machine to MAX_CPU_SHARE of what is free, extrapolated
    from small steps. Never more than MAX_AUTO_BATCH, nor so many that an epoch has less than LEAST_UPDATES_AN_EPOCH.

    Args:
        reserved_bytes: of the device, for the frames.
    """
    workers = distributed.world_size()
    examples = int(train.num_frames.sum()) // config.objective.predictions
    least = 1 if workers == 1 else 2
    most = max(least, min(MAX_AUTO_BATCH, examples // LEAST_UPDATES_AN_EPOCH // workers))
    with _untouched(step, config):
        if device.type == "cuda":
            return _largest_on_gpu(step, config, least, most, reserved_bytes)
        needs = _measure(step, config, most)
        allowed = MAX_CPU_SHARE * (_free_bytes() - reserved_bytes)
        size = least
        while needs is not None and 2 * size <= most and needs.bytes_of(2 * size) <= allowed:
            size *= 2
        return size


@dataclass(frozen=True, kw_only=True, slots=True)
class _Needs:
    """A step's peak memory on a CPU as a line over its examples."""

    base_bytes: float
    example_bytes: float
    at_once: int
    """Examples that pass through the network at once, at most."""
    waiting_bytes: float
    """Of an example that waits for its turn."""

    def bytes_of(self, num_examples: int) -> float:
        at_once = min(num_examples, self.at_once)
        through = self.base_bytes + at_once * self.example_bytes
        return MARGIN * through + (num_examples - at_once) * self.waiting_bytes


def _measure(step: Step, config: RunConfig, batch_size: int) -> _Needs | None:
    """What steps take, from two small ones; None where the system does not tell, or refuses even those memory.

    A step of twice the examples takes at most twice the memory, so it is known beforehand that the next one fits.
    """
    at_once = min(batch_size, config.optimizer.micro_batch_size or batch_size)
    small, large = (1, 2) if at_once < 4 else (2, 4)
    _fits(step, config, small)  # what is made once: the optimizer's state, oneDNN's kernels
    before, peak = _peak(step, config, small), _peak(step, config, large)
    while peak is not None and peak < min(MEASURABLE_BYTES, _free_bytes() / 2) and 2 * large <= at_once:
        small, large = large, 2 * large
        before, peak = peak, _peak(step, config, large)
    if before is None or peak is None:
        return None
    example_bytes = max(0.0, (peak - before) / (large - small))
    augmented = config.objective.swap_players or config.objective.mirror
    return _Needs(
        base_bytes=max(0.0, peak - large * example_bytes),
        example_bytes=example_bytes,
        at_once=at_once,
        waiting_bytes=(AUGMENTED_COPIES if augmented else 1) * BYTES_PER_FRAME * config.objective.example_frames,
    )


def _peak(step: Step, config: RunConfig, num_examples: int) -> int | None:
    with PeakOfHost() as peak:
        fits = _fits(step, config, num_examples)
    return peak.bytes if fits else None


def _update(step: Step, config: RunConfig, num_examples: int) -> None:
    """One update on made-up frames; that its gradient may not be a number is no matter here."""
    share = made_up_share(config, num_examples, step.device, workers=distributed.world_size())
    with contextlib.suppress(NonFiniteGradientError):
        step(share, config.optimizer.learning_rate, 0)
    if step.device.type == "cuda":
        torch.cuda.synchronize(step.device)


def _fits(step: Step, config: RunConfig, num_examples: int) -> bool:
    """Whether an update goes through; where not, all that it took is given up."""
    try:
        _update(step, config, num_examples)
        return True
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS):
            raise
    step.optimizer.zero_grad()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _largest_on_gpu(step: Step, config: RunConfig, least: int, most: int, reserved_bytes: int) -> int:
    """By doubling, until it does not fit any more."""
    free, _ = torch.cuda.mem_get_info(step.device)
    budget = MAX_GPU_SHARE * (free + torch.cuda.memory_reserved(step.device) - reserved_bytes)
    size = 0
    following = least
    while following <= most:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(step.device)
        if not _fits(step, config, following) or torch.cuda.max_memory_reserved(step.device) > budget:
            break
        size, following = following, 2 * following
    return max(size, least)  # where not even that fits, the dry step says so


def _problem_on_gpu(step: Step, config: RunConfig, batch_size: int, reserved_bytes: int) -> str | None:
    free, total = torch.cuda.mem_get_info(step.device)
    place_of_frames = None
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        place_of_frames = torch.empty(reserved_bytes, dtype=torch.uint8, device=step.device)
    if place_of_frames is not None and _fits(step, config, batch_size):
        return None
    found = (
        f"does not fit in the GPU's {total / GB:.1f} GB ({free / GB:.1f} free, {reserved_bytes / GB:.1f} for frames)"
    )
    return _too_large(step, config, batch_size, found, crowded=reserved_bytes > CROWDED_SHARE * free)


def _problem_on_cpu(step: Step, config: RunConfig, batch_size: int, reserved_bytes: int) -> str | None:
    """A step that does not fit would have the system kill some process, so a full one is only tried where it should."""
    available = _free_bytes()
    free = max(0, available - reserved_bytes)
    needs = _measure(step, config, batch_size)
    found = None
    if needs is not None and needs.bytes_of(batch_size) > free:
        needed = needs.bytes_of(batch_size)
        found = f"needs about {needed / GB:.1f} GB, {free / GB:.1f} GB of memory are free for it beside the frames"
    elif not _fits(step, config, batch_size):
        found = f"was refused memory, of which {free / GB:.1f} GB seemed free for it beside the frames"
    return (
        None
        if found is None
        else _too_large(step, config, batch_size, found, crowded=reserved_bytes > CROWDED_SHARE * available)
    )


def _too_large(step: Step, config: RunConfig, batch_size: int, found: str, *, crowded: bool) -> str:
    """What was tried, what is there, what to do."""
    at_once = min(batch_size, config.optimizer.micro_batch_size or batch_size)
    passing = f", {at_once:,} at once" if at_once < batch_size else ""
    precision = "bf16" if uses_bf16(step.device, config.precision) else "fp32"
    smaller = [f"optimizer.micro_batch_size below {at_once:,}"] if at_once > 1 else []
    smaller += ["a smaller optimizer.batch_size"] if config.optimizer.batch_size != "auto" else []
    smaller += ["optimizer.batch_size: auto"] if config.optimizer.batch_size != "auto" else []
    if crowded:  # by the frames
        smaller = ["data.device_cache: never", "a smaller data.pool_frames", *smaller]
    return (
        f"an update of {batch_size:,} examples of {config.objective.example_frames} frames a worker{passing} "
        f"({num_parameters(step.model) / 1e6:.1f} M parameters, {precision}) {found}; "
        f"use {' or '.join(smaller) or 'a smaller model'}"
    )


def _free_bytes() -> int:
    """A worker's part of its machine's free memory. Ray Train and torchrun tell how many workers are on it."""
    return available_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def _untouched(step: Step, config: RunConfig) -> Iterator[None]:
    """Put back what updates change, and give back their memory. What was there is kept on the host meanwhile."""
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in step.model.state_dict().items()}
    moments = _on_host(step.optimizer.state_dict())
    cuda = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _alone(step):
        yield
    step.optimizer.zero_grad()
    with torch.no_grad():
        for name, tensor in step.model.state_dict().items():
            tensor.copy_(weights[name])
    step.optimizer.load_state_dict(moments)
    step.read({})
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(step.device)
    give_back()


@contextmanager
def _alone(step: Step) -> Iterator[None]:
    """Let a step pass by DistributedDataParallel, which would wait for the other ranks' gradients."""
    replicated, step._replicated = step._replicated, step.model
    try:
        yield
    finally:
        step._replicated = replicated


def _on_host(state: Any) -> Any:
    """A copy of nested plain data with tensors."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: _on_host(value) for name, value in state.items()}
    return [_on_host(value) for value in state] if isinstance(state, list) else state
