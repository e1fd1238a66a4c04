"""Frames on the device while they are needed, and the batches that are cut out of them there.

A thread reads the next pool while the present one is used (`wm/data/pools.py`); a batch is then a few operations on the
device. Guarded by `benchmarks/input.py`.

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

from datasets.loading.frames import GameIndex
from datasets.loading.sequences import Cursor, SequenceOrder
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import available_memory_bytes, num_cores
from wm.config.run_config import DataConfig
from wm.data.pools import BYTES_PER_FRAME, FrameStore, LoadedPool, PoolReader
from wm.model.encoding import Frames

MAX_READ_THREADS = 8
"""One thread reads over a million frames a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One worker's part of a batch.

    frames: the worker's examples; game: int16 (B of all workers, C), facts of every example of the batch;
    num_examples: of all workers; first: slot of the worker's first example in the batch.
    """

    frames: Frames
    game: Tensor
    num_examples: int
    first: int = 0


class Feed:
    """An endless iterator over one worker's shares, from a cursor on. Close it, or use it in `with`.

    Memory: the frames of two pools of the worker (its part of `pool_frames`, 156 bytes each) on the device, or
    of the whole corpus once where it is resident; on a CUDA machine's host only some row groups on their way.
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
            index: the games that `order` is of.
            cursor: the first batch; by default the run's first.
            data: its `resident` and `resident_share`; the rest is in `order`.
            local_ranks: workers on this machine.
        Raises:
            UserError: there are too few examples for the workers, or `data.device_cache` is always and does not fit.
        """
        if world_size > 1 and order.batch_size < 2 * world_size:
            raise UserError(
                f"optimizer.batch_size={order.batch_size} is too small for {world_size} workers, since some batches "
                f"are smaller; use {2 * world_size} or more, or fewer num_workers"
            )
        data = data or DataConfig()
        self.cursor = cursor or Cursor()
        """Names the batch after the last one yielded."""
        self.waited_s = 0.0
        """Seconds in which the host waited for frames, the first pool's included."""
        self.is_resident = fits_on_device(int(index.num_frames[order.games].sum()), device, data, local_ranks)
        """Whether the device holds all games, for the whole run."""
        self._order, self._device = order, device
        self._facts = torch.from_numpy(index.facts).to(device)
        stop = threading.Event()
        self._reader = PoolReader(
            order, index, device, rank=rank, world_size=world_size, resident=self.is_resident,
            num_threads=max(1, min(MAX_READ_THREADS, num_cores() // local_ranks)), stop=stop,
        )  # fmt: skip
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._close = weakref.finalize(self, _end, stop, self._executor)
        self._pool: LoadedPool | None = None
        self._ahead: Future[LoadedPool] = self._executor.submit(self._reader.load, self.cursor, FrameStore())
        self._spare = FrameStore()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what they are reading is dropped."""
        self._close()
        self._executor.shutdown(wait=True)
        self._pool, self._ahead, self._spare = None, Future(), FrameStore()  # the frames go, whoever holds the feed
        self._reader.forget()

    def __iter__(self) -> Iterator[Share]:
        return self

    def __next__(self) -> Share:
        """The next share.

        Raises:
            UserError: a shard cannot be read, as the reader's thread found.
        """
        pool = self._pool
        if pool is None or self.cursor.batch == 0:
            pool = self._pool = self._take_next_pool()
        number = self.cursor.batch
        assert number < pool.num_batches, "a cursor of other games"
        last = number == pool.num_batches - 1
        self.cursor = pool.following if last else replace(self.cursor, batch=number + 1)
        begin, end = pool.bounds[number : number + 2]
        first, after = pool.shares[number]
        game = self._facts.index_select(0, pool.games[begin:end])
        floats, codes = (
            sequences_at(array, pool.starts[pool.places[number] : pool.places[number + 1]], self._order.sequence_frames)
            for array in (pool.floats, pool.codes)
        )
        return Share(
            frames=Frames(floats=floats, codes=codes, game=game[first - begin : after - begin]),
            game=game,
            num_examples=end - begin,
            first=first - begin,
        )

    def _take_next_pool(self) -> LoadedPool:
        """Wait for the pool that was read ahead, and let the one after it be read into the present one's place."""
        started = time.perf_counter()
        pool = self._ahead.result()
        self.waited_s += time.perf_counter() - started
        pool.take_over(self._device)
        spare = self._spare
        spare.release(self._device)
        self._spare = pool.store
        self._ahead = self._executor.submit(self._reader.load, pool.following, spare)
        return pool


def sequences_at(frames: Tensor, starts: Tensor, num_frames: int) -> Tensor:
    """Cut sequences of `num_frames` frames out of a row of frames.

    Args:
        frames: (N, P, C), contiguous.
        starts: int64 (B,), first rows.
    Returns:
        (B, num_frames, P, C), a copy.
    """
    shape = len(starts), num_frames, *frames.shape[1:]
    flat = frames.flatten(1)
    if frames.device.type == "cuda":
        rows = starts[:, None] + torch.arange(num_frames, device=frames.device)
        return flat.index_select(0, rows.flatten()).view(shape)
    # Overlapping rows of whole sequences, copied by one thread. As fast as memory allows; torch's indexing takes its
    # threads along, and where cores are shared it takes ten times longer to wait for them.
    width = flat.shape[1]
    sequences = flat.as_strided((max(0, len(flat) - num_frames + 1), num_frames * width), (width, 1))
    return torch.from_numpy(sequences.numpy()[starts.numpy()]).view(shape)


def bytes_on_device(
    order: SequenceOrder, index: GameIndex, device: torch.device, data: DataConfig, *, world_size: int, local_ranks: int
) -> int:
    """What one worker's feed will hold on its device, about: all games, or its part of two pools."""
    num_frames = int(index.num_frames[order.games].sum())
    if not fits_on_device(num_frames, device, data, local_ranks):
        num_frames = 2 * order.frames_per_worker(world_size)
    return num_frames * BYTES_PER_FRAME


def fits_on_device(num_frames: int, device: torch.device, data: DataConfig, local_ranks: int) -> bool:
    """Whether the device shall hold all games, of so many frames.

    Raises:
        UserError: `data.device_cache` is always, and they exceed `data.device_cache_fraction` of its free memory.
    """
    if data.device_cache == "never":
        return False
    needed = num_frames * BYTES_PER_FRAME
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes() // local_ranks
    fits = needed <= data.device_cache_fraction * memory
    if data.device_cache == "always" and not fits:
        raise UserError(
            f"data.device_cache is always, but the games take {needed / 1e9:.1f} GB, and data.device_cache_fraction="
            f"{data.device_cache_fraction} of a worker's {memory / 1e9:.1f} free GB is "
            f"{data.device_cache_fraction * memory / 1e9:.1f} GB; raise data.device_cache_fraction, or set "
            "data.device_cache: auto"
        )
    return fits


def _end(stop: threading.Event, executor: ThreadPoolExecutor) -> None:
    stop.set()
    executor.shutdown(wait=False, cancel_futures=True)
