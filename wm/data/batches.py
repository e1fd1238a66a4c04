"""Batches for one worker, gathered on the device from a pool of frames.

A thread prefetches the next pool while the current one is used (`wm/data/pools.py`), so a batch costs a few operations
on the device. Guarded by `benchmarks/input.py`.

Shape legend: B = batch, T = frames, P = players (2), C = columns, N = frames of a pool.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from datasets.loading.frames import BYTES_PER_FRAME, GameIndex
from datasets.loading.sequences import Cursor, SequenceOrder, rank_slice
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import available_memory_bytes, num_cores
from wm.config.run_config import DataConfig
from wm.data.pools import FrameBuffer, LoadedPool, PoolReader
from wm.model.encoding import Frames

MAX_READ_THREADS = 8
"""One thread reads over a million frames per second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalBatch:
    """One worker's part of a global batch."""

    frames: Frames
    """The worker's examples."""
    game: Tensor
    """int16 (global B, C), metadata of every example of the global batch, columns as GAME_COLUMNS."""
    num_examples: int
    """Size of the global batch."""
    first: int = 0
    """Index of the worker's first example in the global batch."""


class BatchLoader:
    """Infinite iterator over one worker's batches, all of one shape, starting at a cursor.

    A context manager; otherwise call `close`.

    Device memory: two pools of the worker (its part of `pool_frames`, 188 bytes per frame), or the whole corpus if it
    is cached. Host memory with CUDA: the row groups in transfer.
    """

    def __init__(
        self,
        order: SequenceOrder,
        index: GameIndex,
        device: torch.device,
        *,
        rank: int = 0,
        world_size: int = 1,
        cursor: Cursor | None = None,
        data: DataConfig | None = None,
        local_ranks: int = 1,
    ) -> None:
        """
        Args:
            index: the games of `order`.
            cursor: the first batch to yield; by default the first batch of the run.
            data: only `device_cache` and `device_cache_fraction` are used.
            local_ranks: workers on this machine.
        Raises:
            UserError: a batch has fewer examples than there are workers, or `data.device_cache` is always and the
                corpus does not fit.
        """
        if order.batch_size < world_size:
            raise UserError(
                f"optimizer.batch_size={order.batch_size} is less than one example for each of {world_size} workers; "
                f"use at least {world_size}, or fewer num_workers"
            )
        data = data or DataConfig()
        self.cursor = cursor or Cursor()
        """The next batch."""
        self.waited_s = 0.0
        """Seconds that the host waited for pools, the first one included."""
        self.is_cached = fits_in_device_memory(int(index.num_frames[order.games].sum()), device, data, local_ranks)
        """Whether the device holds all games during the whole run."""
        self._order, self._device = order, device
        self._own = rank_slice(order.batch_size, rank, world_size)
        self._facts = torch.from_numpy(index.facts).to(device)
        stop = threading.Event()
        self._reader = PoolReader(
            order, index, device, rank=rank, world_size=world_size, cache=self.is_cached,
            num_threads=max(1, min(MAX_READ_THREADS, num_cores() // local_ranks)), stop=stop,
        )  # fmt: skip
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._close = weakref.finalize(self, _stop_threads, stop, self._executor)
        self._pool: LoadedPool | None = None
        self._next_pool: Future[LoadedPool] = self._executor.submit(self._reader.load, self.cursor, FrameBuffer())
        self._spare_buffer = FrameBuffer()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads and free the frames."""
        self._close()
        self._executor.shutdown(wait=True)
        self._pool, self._next_pool, self._spare_buffer = None, Future(), FrameBuffer()
        self._reader.clear_cache()

    def __iter__(self) -> Iterator[LocalBatch]:
        return self

    def __next__(self) -> LocalBatch:
        """The next batch.

        Raises:
            UserError: the prefetch thread could not read a shard.
        """
        pool = self._pool
        if pool is None or self.cursor.batch == 0:
            pool = self._pool = self._swap_pools()
        number = self.cursor.batch
        assert number < pool.num_batches, "the cursor belongs to another order"
        is_last = number == pool.num_batches - 1
        self.cursor = pool.next_cursor if is_last else replace(self.cursor, batch=number + 1)
        game, rows = self._facts.index_select(0, pool.games[number]), pool.rows[number]
        floats, codes = (
            gather_sequences(frames, rows, self._order.sequence_frames) for frames in (pool.floats, pool.codes)
        )
        return LocalBatch(
            frames=Frames(floats=floats, codes=codes, game=game[self._own]),
            game=game,
            num_examples=len(game),
            first=self._own.start,
        )

    def _swap_pools(self) -> LoadedPool:
        """Wait for the prefetched pool, and prefetch the one after it into the buffer of the previous one."""
        started = time.perf_counter()
        pool = self._next_pool.result()
        self.waited_s += time.perf_counter() - started
        pool.wait_until_ready(self._device)
        spare = self._spare_buffer
        spare.release(self._device)
        self._spare_buffer = pool.buffer
        self._next_pool = self._executor.submit(self._reader.load, pool.next_cursor, spare)
        return pool


def gather_sequences(frames: Tensor, starts: Tensor, num_frames: int) -> Tensor:
    """Gather sequences of `num_frames` consecutive frames.

    Args:
        frames: (N, P, C), contiguous.
        starts: int64 (B,), first row of each sequence.
    Returns:
        (B, num_frames, P, C), a copy.
    """
    shape = len(starts), num_frames, *frames.shape[1:]
    flat = frames.flatten(1)
    if frames.device.type == "cuda":
        rows = starts[:, None] + torch.arange(num_frames, device=frames.device)
        return flat.index_select(0, rows.flatten()).view(shape)
    # NumPy indexes a view of overlapping sequences in one thread, at memory bandwidth. torch's indexing uses its thread
    # pool, and on shared cores waiting for those threads takes ten times as long.
    width = flat.shape[1]
    sequences = flat.as_strided((max(0, len(flat) - num_frames + 1), num_frames * width), (width, 1))
    return torch.from_numpy(sequences.numpy()[starts.numpy()]).view(shape)


def device_bytes(
    order: SequenceOrder, index: GameIndex, device: torch.device, data: DataConfig, *, world_size: int, local_ranks: int
) -> int:
    """Approximate device memory of one worker's loader: all games, or its part of two pools."""
    num_frames = int(index.num_frames[order.games].sum())
    if not fits_in_device_memory(num_frames, device, data, local_ranks):
        num_frames = 2 * order.frames_per_worker(world_size)
    return num_frames * BYTES_PER_FRAME


def fits_in_device_memory(num_frames: int, device: torch.device, data: DataConfig, local_ranks: int) -> bool:
    """Whether all games, of `num_frames` frames, are cached on the device.

    Raises:
        UserError: `data.device_cache` is always, and they exceed `data.device_cache_fraction` of the free memory.
    """
    if data.device_cache == "never":
        return False
    needed = num_frames * BYTES_PER_FRAME
    memory = unused_gpu_bytes(device) if device.type == "cuda" else available_memory_bytes() // local_ranks
    fits = needed <= data.device_cache_fraction * memory
    if data.device_cache == "always" and not fits:
        raise UserError(
            f"data.device_cache is always, but the games take {needed / 1e9:.1f} GB, and data.device_cache_fraction="
            f"{data.device_cache_fraction} of a worker's {memory / 1e9:.1f} free GB is "
            f"{data.device_cache_fraction * memory / 1e9:.1f} GB; raise data.device_cache_fraction, or set "
            "data.device_cache: auto"
        )
    return fits


def unused_gpu_bytes(device: torch.device) -> int:
    """GPU memory that this process can still allocate."""
    free, _ = torch.cuda.mem_get_info(device)
    return unused_bytes(free, torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device))


def unused_bytes(free: int, reserved: int, allocated: int) -> int:
    """What can still be allocated: what the device has free, and what torch's allocator keeps of freed tensors."""
    return free + reserved - allocated


def _stop_threads(stop: threading.Event, executor: ThreadPoolExecutor) -> None:
    stop.set()
    executor.shutdown(wait=False, cancel_futures=True)
