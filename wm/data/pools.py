"""Load pools of frames onto the device in background threads.

On CUDA each row group is copied through a pinned buffer on a separate copy stream. Events order the copy stream and the
training stream, so the host never waits for the device.

Shape legend: P = players (2), C = columns, F = frames of a pool, N = batches of a pool, B = batch.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import (
    CODE_COLUMNS,
    FLOAT_COLUMNS,
    FrameArrays,
    GameIndex,
    read_games,
    row_group_numbers,
)
from datasets.loading.sequences import Cursor, SequenceOrder, rank_slice
from datasets.schema.columns import NUM_PLAYERS

GROWTH = 1.1
"""Smallest growth factor of a buffer that is too small: pools differ by a few games."""


class LoaderClosedError(RuntimeError):
    """The loader was closed while its thread was reading."""


@dataclass(slots=True)
class FrameBuffer:
    """Reusable device buffer for the frames of a pool. floats: float32 (F, P, C); codes: int16 (F, P, C)."""

    floats: Tensor = field(default_factory=lambda: torch.empty(0, NUM_PLAYERS, len(FLOAT_COLUMNS)))
    codes: Tensor = field(default_factory=lambda: torch.empty(0, NUM_PLAYERS, len(CODE_COLUMNS), dtype=torch.int16))
    released: torch.cuda.Event | None = None
    """Recorded after the last batch was gathered from the buffer."""

    def reserve(self, num_frames: int, device: torch.device) -> None:
        """Allocate space for `num_frames` frames, unless there is enough."""
        if len(self.floats) >= num_frames and self.floats.device.type == device.type:
            return
        capacity = max(num_frames, int(GROWTH * len(self.floats)))
        self.floats, self.codes = self.floats[:0].clone(), self.codes[:0].clone()  # free the old buffer first
        self.floats = torch.empty(capacity, NUM_PLAYERS, len(FLOAT_COLUMNS), device=device)
        self.codes = torch.empty(capacity, NUM_PLAYERS, len(CODE_COLUMNS), dtype=torch.int16, device=device)

    def release(self, device: torch.device) -> None:
        """Mark the buffer as free once the work queued so far on the current (training) stream is done."""
        if device.type == "cuda":
            self.released = torch.cuda.Event()
            self.released.record(torch.cuda.current_stream(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPool:
    """A pool with one worker's frames on the device."""

    buffer: FrameBuffer
    rows: Tensor
    """int64 (N, B of the worker), on the device: first row of each sequence in `buffer`."""
    games: Tensor
    """int32 (N, B), on the device: index of the game of each sequence, of all workers."""
    next_cursor: Cursor
    """The first batch after this pool."""
    ready: torch.cuda.Event | None
    """Recorded on the copy stream after the last copy; None without CUDA."""

    @property
    def num_batches(self) -> int:
        return len(self.games)

    @property
    def floats(self) -> Tensor:
        return self.buffer.floats

    @property
    def codes(self) -> Tensor:
        return self.buffer.codes

    def wait_until_ready(self, device: torch.device) -> None:
        """Make the current (training) stream wait until the pool is on the device."""
        if self.ready is None:
            return
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.ready)
        for tensor in (self.floats, self.codes, self.rows, self.games):
            tensor.record_stream(stream)


class PoolReader:
    """Loads pools for one worker. Call `load` from one thread; it reads row groups in several."""

    def __init__(
        self,
        order: SequenceOrder,
        index: GameIndex,
        device: torch.device,
        *,
        rank: int,
        world_size: int,
        cache: bool,
        num_threads: int,
        stop: threading.Event,
    ) -> None:
        """
        Args:
            cache: load all games at the first call, and keep them.
            stop: if set, `load` raises LoaderClosedError.
        """
        self._order, self._index, self._device = order, index, device
        self._own = rank_slice(order.batch_size, rank, world_size)
        self._num_threads, self._stop = num_threads, stop
        self._row_groups = row_group_numbers(index)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._cache = cache
        self._cached: tuple[FrameBuffer, np.ndarray] | None = None

    def clear_cache(self) -> None:
        """Free cached frames, and stop reading ahead."""
        self._index.corpus.stop_reading_ahead()
        self._cached = None

    def load(self, cursor: Cursor, buffer: FrameBuffer) -> LoadedPool:
        """Load the pool of a cursor onto the device.

        Args:
            buffer: destination, unless all games are cached.
        Raises:
            UserError: a shard cannot be read.
            LoaderClosedError: the loader was closed.
        """
        pool = self._order.pool(cursor.epoch, cursor.pool)
        own_games, own_starts = pool.games[:, self._own], pool.starts[:, self._own]
        with self._on_copy_stream():
            if not self._cache:
                game_rows = self._read(np.unique(own_games), buffer)
            else:
                if self._cached is None:
                    self._cached = buffer, self._read(self._order.games, buffer)
                buffer, game_rows = self._cached
            rows = self._move(game_rows[own_games] + own_starts)
            games = self._move(pool.games)
            ready = None
            if self._stream is not None:
                ready = torch.cuda.Event()
                ready.record(self._stream)
        return LoadedPool(
            buffer=buffer,
            rows=rows,
            games=games,
            next_cursor=self._order.next_pool(cursor),
            ready=ready,
        )

    def _on_copy_stream(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._stream is None else tensor.pin_memory().to(self._device, non_blocking=True)

    def _read(self, games: np.ndarray, buffer: FrameBuffer) -> np.ndarray:
        """Read games into a buffer, several row groups at a time.

        Returns:
            First row of each game of the index in the buffer: int64 (games of the index,); -1 if it was not read.
        """
        games = games[np.argsort(self._row_groups[games], kind="stable")]
        lengths = self._index.num_frames[games].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        buffer.reserve(int(lengths.sum()), self._device)
        if self._stream is not None and buffer.released is not None:
            self._stream.wait_event(buffer.released)
        bounds = [0, *(1 + np.flatnonzero(np.diff(self._row_groups[games]))).tolist(), len(games)]
        self._index.corpus.read_ahead(dict.fromkeys(self._index.shards[games].tolist()))
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="row-groups") as readers:
            for begin, end in itertools.pairwise(bounds):
                if len(running) == 2 * self._num_threads:
                    running.popleft().result()
                if self._stop.is_set():
                    raise LoaderClosedError
                running.append(readers.submit(self._read_row_group, games[begin:end], int(starts[begin]), buffer))
            for task in running:
                task.result()
        rows = np.full(len(self._index), -1)
        rows[games] = starts
        return rows

    def _read_row_group(self, games: np.ndarray, start: int, buffer: FrameBuffer) -> None:
        """Read some games of one row group into consecutive rows of a buffer."""
        end = start + int(self._index.num_frames[games].sum())
        destination = buffer.floats[start:end], buffer.codes[start:end]
        if self._stream is None:
            read_games(self._index, games, out=FrameArrays(floats=destination[0].numpy(), codes=destination[1].numpy()))
            return
        with torch.cuda.stream(self._stream):
            floats, codes = (torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in destination)
            read_games(self._index, games, out=FrameArrays(floats=floats.numpy(), codes=codes.numpy()))
            # The pinned-memory allocator reuses a buffer only after the copies from it are done.
            destination[0].copy_(floats, non_blocking=True)
            destination[1].copy_(codes, non_blocking=True)
