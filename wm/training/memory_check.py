"""A trial step at full size before training, on synthetic frames: out of memory shows at once, not hours later.

Weights, optimizer and random numbers are restored bit for bit. No rank waits for another one meanwhile: one that runs
out of memory would leave the others waiting for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from datasets.loading.frames import BYTES_PER_FRAME
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import available_memory_bytes
from datasets.runtime.process.host_memory import PeakHostMemory, malloc_trim
from wm.data.batches import unused_gpu_bytes
from wm.data.synthetic_batch import synthetic_batch
from wm.model.precision import uses_bf16
from wm.model.world_model import num_parameters
from wm.training import distributed
from wm.training.schedule import largest_useful_batch
from wm.training.train_step import NonFiniteGradientError, TrainStep

MAX_GPU_SHARE = 0.85
"""Share of a GPU's memory beside the frames that `batch_size: auto` fills: the rest is for the evaluation."""
MAX_CPU_SHARE = 0.25
MEASURABLE_BYTES = 200 * 10**6
"""A peak above which the noise of a process' memory (some 10 MB) hardly counts."""
MARGIN = 1.25
"""With it, extrapolated peaks were 0.99 to 1.54 times the measured ones (15 runs of a small, the medium and the large
network, 32 to 256 examples; 2 shared CPU cores, 2026-11-23): too high is better than a killed process."""
FRAMES_SHARE = 0.25
"""Share of free memory above which the frames are named among what could be made smaller."""
AUGMENTED_COPIES = 4
"""Copies of a batch's frames while players are swapped or sides mirrored."""
OUT_OF_MEMORY_SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory")
GB = 1e9


class InsufficientMemoryError(UserError):
    """An update does not fit in the memory of a worker; raised on every rank."""


def check_memory(step: TrainStep, batch_size: int, reserved_bytes: int = 0) -> None:
    """Make one update of a full batch; every rank must call.

    Args:
        batch_size: examples of this worker.
        reserved_bytes: of the device, for the frames.
    Raises:
        InsufficientMemoryError: on every rank: the update does not fit in some rank's memory.
    """
    with preserve_state(step):
        find_problem = _problem_on_gpu if step.device.type == "cuda" else _problem_on_cpu
        problem = find_problem(step, batch_size, reserved_bytes)
    problems = [one for one in distributed.all_gather_object(problem) if one is not None]
    if problems:
        raise InsufficientMemoryError(problems[0])


def largest_batch_size(step: TrainStep, num_frames: int, reserved_bytes: int = 0) -> int:
    """Examples of this worker for `batch_size: auto`: the largest power of two that fits in its memory.

    A GPU is filled to MAX_GPU_SHARE, found by trying; a CPU machine to MAX_CPU_SHARE of its free memory, extrapolated
    from small steps. At most `largest_useful_batch`.

    Args:
        num_frames: of the training games.
        reserved_bytes: of the device, for the frames.
    """
    useful = largest_useful_batch(step.config, num_frames)
    largest = max(1, useful // distributed.world_size())
    with preserve_state(step):
        if step.device.type == "cuda":
            return largest_power_of_two(largest, _fits_on_gpu(step, reserved_bytes))
        estimate = estimate_cpu_memory(step, largest)
        allowed = MAX_CPU_SHARE * (_available_bytes() - reserved_bytes)
        return largest_power_of_two(largest, lambda size: estimate is not None and estimate(size) <= allowed)


def largest_power_of_two(largest: int, fits: Callable[[int], bool]) -> int:
    """The largest power of two up to `largest` that fits; 1 if none does, which `check_memory` then reports.

    Sizes are tried from the top: Triton tunes its kernels at the first size that it sees, whose batch is not part of
    its key, and a kernel tuned for two examples is slow for a thousand.
    """
    size = 1 << (largest.bit_length() - 1)
    while size > 1 and not fits(size):
        size //= 2
    return size


def estimate_cpu_memory(step: TrainStep, batch_size: int) -> Callable[[int], float] | None:
    """A step's peak memory on a CPU, by its examples: linear, from two small steps, with a margin.

    None if the system reports no peak, or has too little memory even for those.

    A step of twice the examples takes at most twice the memory, so the next one is known to fit.
    """
    objective, micro_batch = step.config.objective, _micro_batch(step, batch_size)
    small, large = (1, 2) if micro_batch < 4 else (2, 4)
    _fits(step, small)  # one-time allocations: the optimizer's state, oneDNN's kernels
    before, peak = _peak(step, small), _peak(step, large)
    while peak is not None and peak < min(MEASURABLE_BYTES, _available_bytes() / 2) and 2 * large <= micro_batch:
        small, large = large, 2 * large
        before, peak = peak, _peak(step, large)
    if before is None or peak is None:
        return None
    example_bytes = max(0.0, (peak - before) / (large - small))
    base_bytes = max(0.0, peak - large * example_bytes)
    copies = AUGMENTED_COPIES if objective.swap_players or objective.mirror else 1
    waiting_bytes = copies * BYTES_PER_FRAME * objective.example_frames  # of an example outside the micro-batch

    def peak_bytes(num_examples: int) -> float:
        active = min(num_examples, micro_batch)
        return MARGIN * (base_bytes + active * example_bytes) + (num_examples - active) * waiting_bytes

    return peak_bytes


@contextmanager
def preserve_state(step: TrainStep) -> Iterator[None]:
    """Restore what updates change, and free their memory. Weights and moments are kept on the host meanwhile."""
    weights = _on_host(step.model.state_dict())
    moments = _on_host(step.optimizer.state_dict())
    cuda = [step.device] if step.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), step.bypass_ddp():
        yield
    step.optimizer.zero_grad()
    with torch.no_grad():
        for name, tensor in step.model.state_dict().items():
            tensor.copy_(weights[name])
    step.optimizer.load_state_dict(moments)
    step.discard_stats()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(step.device)
    malloc_trim()


def _peak(step: TrainStep, num_examples: int) -> int | None:
    with PeakHostMemory() as peak:
        fits = _fits(step, num_examples)
    return peak.bytes if fits else None


def _fits(step: TrainStep, num_examples: int) -> bool:
    """Whether an update of synthetic frames succeeds; if not, its memory is freed."""
    share = synthetic_batch(step.config, num_examples, step.device, workers=distributed.world_size())
    try:
        with contextlib.suppress(NonFiniteGradientError):
            step(share, step.config.optimizer.learning_rate, 0)
        if step.device.type == "cuda":
            torch.cuda.synchronize(step.device)
        return True
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY_SIGNS):
            raise
    step.optimizer.zero_grad()
    if step.device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _fits_on_gpu(step: TrainStep, reserved_bytes: int) -> Callable[[int], bool]:
    """Whether an update fits into MAX_GPU_SHARE of the memory beside the frames, by trying."""
    free, _ = torch.cuda.mem_get_info(step.device)
    budget = MAX_GPU_SHARE * (free + torch.cuda.memory_reserved(step.device) - reserved_bytes)

    def fits(num_examples: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(step.device)
        return _fits(step, num_examples) and torch.cuda.max_memory_reserved(step.device) <= budget

    return fits


def _problem_on_gpu(step: TrainStep, batch_size: int, reserved_bytes: int) -> str | None:
    free, total = unused_gpu_bytes(step.device), torch.cuda.mem_get_info(step.device)[1]
    placeholder = None
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        placeholder = torch.empty(reserved_bytes, dtype=torch.uint8, device=step.device)
    if placeholder is not None and _fits(step, batch_size):
        return None
    found = (
        f"does not fit in the GPU's {total / GB:.1f} GB ({free / GB:.1f} free, {reserved_bytes / GB:.1f} for frames)"
    )
    return _too_large(step, batch_size, found, name_frames=reserved_bytes > FRAMES_SHARE * free)


def _problem_on_cpu(step: TrainStep, batch_size: int, reserved_bytes: int) -> str | None:
    """A full step is only tried if it should fit: otherwise the system would kill some process."""
    available = _available_bytes()
    free = max(0, available - reserved_bytes)
    estimate = estimate_cpu_memory(step, batch_size)
    if estimate is not None and (needed := estimate(batch_size)) > free:
        found = f"needs about {needed / GB:.1f} GB, but {free / GB:.1f} GB of memory are free beside the frames"
    elif not _fits(step, batch_size):
        found = f"ran out of memory, although {free / GB:.1f} GB seemed free beside the frames"
    else:
        return None
    return _too_large(step, batch_size, found, name_frames=reserved_bytes > FRAMES_SHARE * available)


def _too_large(step: TrainStep, batch_size: int, found: str, *, name_frames: bool) -> str:
    """What was tried, what was found, what to do."""
    optimizer, micro_batch = step.config.optimizer, _micro_batch(step, batch_size)
    in_parts = f", {micro_batch:,} at a time" if micro_batch < batch_size else ""
    precision = "bf16" if uses_bf16(step.device, step.config.precision) else "fp32"
    remedies = ["data.device_cache: never", "a smaller data.pool_frames"] if name_frames else []
    if micro_batch > 1:
        remedies.append(f"optimizer.micro_batch_size below {micro_batch:,}")
    if optimizer.batch_size != "auto":
        remedies += ["a smaller optimizer.batch_size", "optimizer.batch_size: auto"]
    return (
        f"an update of {batch_size:,} examples of {step.config.objective.example_frames} frames per worker{in_parts} "
        f"({num_parameters(step.model) / 1e6:.1f} M parameters, {precision}) {found}; "
        f"use {' or '.join(remedies) or 'a smaller model'}"
    )


def _micro_batch(step: TrainStep, batch_size: int) -> int:
    return min(batch_size, step.config.micro_batch_size or batch_size)


def _available_bytes() -> int:
    """A worker's share of its machine's available memory."""
    return available_memory_bytes() // distributed.local_world_size()


def _on_host(state: Any) -> Any:
    """A copy of nested plain data with tensors."""
    return tree_map(lambda value: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value, state)
