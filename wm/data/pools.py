"""Reading pools of frames onto the device, in threads of their own.

On CUDA frames go through pinned buffers, a row group each, on a stream of their own; events order that stream and the
one that trains, so that the host never waits for the device.

Shape legend: P = players (2), C = columns, N = frames of a pool, S = sequences of a pool.
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

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays, GameIndex, read_games, row_group_numbers
from datasets.loading.sequences import Cursor, Pool, SequenceOrder, concatenated_ranges
from datasets.runtime.errors import UserError
from datasets.schema.columns import NUM_PLAYERS

BYTES_PER_FRAME = NUM_PLAYERS * (4 * len(FLOAT_COLUMNS) + 2 * len(CODE_COLUMNS))
GROWTH = 1.1
"""What a store that is too small grows by at least: pools differ by a few games."""


class ReadingStoppedError(RuntimeError):
    """The feed was closed while its thread read."""


@dataclass(slots=True)
class FrameStore:
    """Room for a pool's frames on the device, used again and again.

    floats: float32 (N, P, C); codes: int16 (N, P, C). `released` is reached when the last batch was cut out of it.
    """

    floats: Tensor = field(default_factory=lambda: torch.empty(0, NUM_PLAYERS, len(FLOAT_COLUMNS)))
    codes: Tensor = field(default_factory=lambda: torch.empty(0, NUM_PLAYERS, len(CODE_COLUMNS), dtype=torch.int16))
    released: torch.cuda.Event | None = None

    def reserve(self, num_frames: int, device: torch.device) -> None:
        """Make room, if there is less."""
        if len(self.floats) >= num_frames and self.floats.device.type == device.type:
            return
        room = max(num_frames, int(GROWTH * len(self.floats)))
        self.floats, self.codes = self.floats[:0].clone(), self.codes[:0].clone()  # frees the old room first
        self.floats = torch.empty(room, NUM_PLAYERS, len(FLOAT_COLUMNS), device=device)
        self.codes = torch.empty(room, NUM_PLAYERS, len(CODE_COLUMNS), dtype=torch.int16, device=device)

    def release(self, device: torch.device) -> None:
        """Called on the stream that trains: what was queued there so far must be done before the next frames come."""
        if device.type == "cuda":
            self.released = torch.cuda.Event()
            self.released.record(torch.cuda.current_stream(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPool:
    """A pool of which one worker's frames are on the device.

    starts: int64 (S of the worker,), rows of `store`; games: int32 (S of all,), on the device both.
    bounds: as `Pool.bounds`; shares: first and last (excluded) sequence of the worker in each batch;
    places: bounds of the worker's batches in `starts`.
    """

    store: FrameStore
    starts: Tensor
    games: Tensor
    bounds: list[int]
    shares: list[tuple[int, int]]
    places: list[int]
    following: Cursor
    """The first batch after this pool."""
    ready: torch.cuda.Event | None

    @property
    def num_batches(self) -> int:
        return len(self.shares)

    @property
    def floats(self) -> Tensor:
        return self.store.floats

    @property
    def codes(self) -> Tensor:
        return self.store.codes

    def take_over(self, device: torch.device) -> None:
        """Let the stream that trains wait until all is there."""
        if self.ready is None:
            return
        stream = torch.cuda.current_stream(device)
        stream.wait_event(self.ready)
        for tensor in (self.floats, self.codes, self.starts, self.games):
            tensor.record_stream(stream)


class PoolReader:
    """Loads pools for one worker. Called from one thread, reads in several."""

    def __init__(
        self,
        order: SequenceOrder,
        index: GameIndex,
        device: torch.device,
        *,
        rank: int,
        world_size: int,
        resident: bool,
        num_threads: int,
        stop: threading.Event,
    ) -> None:
        """
        Args:
            resident: read all games at the first call, and keep them.
            stop: when set, reading ends with a ReadingStoppedError.
        """
        self._order, self._index, self._device = order, index, device
        self._rank, self._world_size = rank, world_size
        self._num_threads, self._stop = num_threads, stop
        self._row_groups = row_group_numbers(index)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._resident = resident
        self._kept: tuple[FrameStore, np.ndarray] | None = None

    def forget(self) -> None:
        """Let resident frames go."""
        self._kept = None

    def load(self, cursor: Cursor, store: FrameStore) -> LoadedPool:
        """Bring the pool of the cursor onto the device.

        Args:
            store: where the frames go, unless all games are resident.
        Raises:
            UserError: a shard cannot be read, or a batch has fewer examples than there are workers.
            ReadingStoppedError: the feed was closed.
        """
        pool = self._order.pool(cursor.epoch, cursor.pool)
        following = self._order.next_pool(cursor)
        firsts, afters = pool.rank_slices(self._rank, self._world_size)
        mine = concatenated_ranges(firsts, afters)
        self._check_sizes(pool)
        with self._on_own_stream():
            if not self._resident:
                rows = self._read(_distinct(pool.games[mine], len(self._index)), store)
            else:
                if self._kept is None:
                    self._kept = store, self._read(self._order.games, store)
                store, rows = self._kept
            starts = self._move(rows[pool.games[mine]] + pool.starts[mine])
            games = self._move(pool.games)
            ready = None
            if self._stream is not None:
                ready = torch.cuda.Event()
                ready.record(self._stream)
        return LoadedPool(
            store=store,
            starts=starts,
            games=games,
            bounds=pool.bounds.tolist(),
            shares=list(zip(firsts.tolist(), afters.tolist(), strict=True)),
            places=np.append(0, np.cumsum(afters - firsts)).tolist(),
            following=following,
            ready=ready,
        )

    def _check_sizes(self, pool: Pool) -> None:
        smallest = int(np.diff(pool.bounds).min())
        if smallest < self._world_size:
            raise UserError(
                f"a batch has {smallest} examples, each of {self._world_size} workers needs one; "
                "train on more games, use a larger data.pool_frames or fewer num_workers"
            )

    def _on_own_stream(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _move(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._stream is None else tensor.pin_memory().to(self._device, non_blocking=True)

    def _read(self, games: np.ndarray, store: FrameStore) -> np.ndarray:
        """Read games into a store, several row groups at a time.

        Returns:
            First row of each game of the index in the store: int64 (games of the index,); -1 if it was not read.
        """
        games = games[np.argsort(self._row_groups[games], kind="stable")]
        lengths = self._index.num_frames[games].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        store.reserve(int(lengths.sum()), self._device)
        if self._stream is not None and store.released is not None:
            self._stream.wait_event(store.released)
        borders = [0, *(1 + np.flatnonzero(np.diff(self._row_groups[games]))).tolist(), len(games)]
        running: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="row-groups") as readers:
            for begin, end in itertools.pairwise(borders):
                if len(running) == 2 * self._num_threads:
                    running.popleft().result()
                if self._stop.is_set():
                    raise ReadingStoppedError
                running.append(readers.submit(self._read_row_group, games[begin:end], int(starts[begin]), store))
            for task in running:
                task.result()
        rows = np.full(len(self._index), -1)
        rows[games] = starts
        return rows

    def _read_row_group(self, games: np.ndarray, start: int, store: FrameStore) -> None:
        """Read some games of one row group into consecutive rows of a store."""
        end = start + int(self._index.num_frames[games].sum())
        places = store.floats[start:end], store.codes[start:end]
        if self._stream is None:
            read_games(self._index, games, out=FrameArrays(floats=places[0].numpy(), codes=places[1].numpy()))
            return
        with torch.cuda.stream(self._stream):
            floats, codes = (torch.empty(place.shape, dtype=place.dtype, pin_memory=True) for place in places)
            read_games(self._index, games, out=FrameArrays(floats=floats.numpy(), codes=codes.numpy()))
            # The host allocator keeps a pinned buffer until the copies from it are done.
            places[0].copy_(floats, non_blocking=True)
            places[1].copy_(codes, non_blocking=True)


def _distinct(games: np.ndarray, num_games: int) -> np.ndarray:
    """The games that occur, each once, rising."""
    occurs = np.zeros(num_games, dtype=bool)
    occurs[games] = True
    return np.flatnonzero(occurs)
