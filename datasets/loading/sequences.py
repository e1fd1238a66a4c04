"""The order of the training sequences: a pure function of the games, the seed and a few sizes, not of the workers.

In a corpus of MIN_ROW_GROUPS row groups or more it also depends on which games share a row group, which
`wm corpus compact` changes (`SequenceOrder.units_digest`).

An epoch shuffles the corpus in two levels, as shuffle buffers over shards do:

1. Shuffle units (row groups, or single games if there are few row groups) are permuted, and each game is cut into
   sequences, starting at a random offset. That list is cut into pools of whole batches. A pool is a shuffle buffer: the
   frames that are in memory together. A game at the border of two pools is read for both.
2. The sequences of a pool are shuffled within lanes (contiguous stripes of the pool), and every batch takes equally
   many sequences from each lane.

Every batch has the same size. What is left at the end of an epoch, less than a batch and in each epoch of other games,
is dropped.

Each rank takes the same contiguous part of every batch, so a single cursor is the position of all workers, a run can
resume with another number of workers, and a rank reads only the lanes of its part.
`docs/architecture.md` and `benchmarks/input.py` compare this with Ray Data.

Shape legend: B = batch, T = frames of a sequence, P = players (2), C = columns, N = batches of a pool.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import FrameArrays, GameIndex, row_group_numbers
from datasets.runtime.errors import UserError

MIN_ROW_GROUPS = 64
"""With fewer row groups the shuffle units are single games."""
MIN_BATCHES_PER_POOL = 8
"""If the corpus is large enough: two pools may read the game between them, which counts little in so large a pool."""
MIN_FRAMES_FOR_LANES = 1_000_000
"""Smaller pools have a single lane, because it costs little if every worker reads all of such a pool."""
ORDER_VERSION = 2
"""Incremented when the same arguments give another order. 1: batches of a pool differed by one sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Sequences of T frames, each of a single game.

    floats: float32 (B, T, P, C); codes: int16 (B, T, P, C); game: int16 (B, C); columns as in
    `datasets.loading.frames`.
    """

    floats: np.ndarray
    codes: np.ndarray
    game: np.ndarray


def gather(frames: FrameArrays, facts: np.ndarray, starts: np.ndarray, num_frames: int) -> Batch:
    """A batch of sequences of `num_frames` consecutive frames.

    Args:
        facts: int16 (B, C), GAME_COLUMNS of each sequence's game.
        starts: int64 (B,), first row of each sequence in `frames`.
    """
    return take_rows(frames, facts, starts[:, None] + np.arange(num_frames))


def take_rows(frames: FrameArrays, facts: np.ndarray, rows_BT: np.ndarray) -> Batch:
    """A batch of the given rows, int64 (B, T)."""
    return Batch(floats=frames.floats[rows_BT], codes=frames.codes[rows_BT], game=facts)


def concatenated_ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """`np.arange(start, end)` of each pair, concatenated: int64."""
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """The position of a run, over all workers: its next batch."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The sequences of one pool, a row per batch.

    games: int32 (N, B), position in the GameIndex; starts: int64 (N, B), first frame of the sequence within its game.
    """

    games: np.ndarray
    starts: np.ndarray

    @property
    def num_batches(self) -> int:
        return len(self.games)


def rank_slice(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of every batch that belongs to one rank. Parts differ by at most one sequence, and cover the batch."""
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Epoch:
    """The games of an epoch in their shuffled order, and where each is cut.

    games: int64 (games,), positions in the index; bounds: int64 (games + 1,), the sequences of games[i] are number
    bounds[i] .. bounds[i + 1] - 1 of the epoch; offsets: int64 (games of the index,), first frame of the first sequence
    of each game.
    """

    number: int
    games: np.ndarray
    bounds: np.ndarray
    offsets: np.ndarray


class SequenceOrder:
    """The sequences of each batch of a run. An epoch contains each sequence once, except fewer than `batch_size`.

    A rank reads only the lanes that its part of the batches comes from. If the number of ranks does not divide the
    number of lanes, two ranks read the same lane. With `stride` equal to the number of predictions in a sequence, each
    target occurs at most once per epoch.
    Memory: about 60 bytes per game, plus the sequences of the pools in use.
    """

    def __init__(
        self,
        index: GameIndex,
        *,
        sequence_frames: int,
        stride: int,
        batch_size: int,
        seed: int,
        pool_frames: int = 4_000_000,
        lanes: int = 8,
    ) -> None:
        """
        Args:
            sequence_frames: T, from the first context frame to the last target. Shorter games are left out.
            stride: frames from the start of one sequence to the start of the next in the same game.
            batch_size: number of sequences in every batch, over all workers.
            pool_frames: frames of a pool, exceeded by up to a batch and two games, or to hold MIN_BATCHES_PER_POOL.
            lanes: contiguous stripes of a pool that are shuffled separately.
        Raises:
            UserError: every game is shorter than a sequence, or the games have fewer sequences than a batch.
        """
        longest = int(index.num_frames.max())
        if longest < sequence_frames:
            raise UserError(
                f"a sequence needs {sequence_frames} frames (context and target), but the longest of {len(index)} "
                f"games has {longest}; use a smaller context_frames or sequence_frames"
            )
        self.sequence_frames, self.stride, self.batch_size = sequence_frames, stride, batch_size
        self._seed, self._lanes = seed, lanes
        self._lengths = index.num_frames.astype(np.int64)
        last_starts = np.maximum(0, self._lengths - sequence_frames)
        self._num_offsets = np.minimum(stride, last_starts + 1)
        self.games = np.flatnonzero(self._lengths >= sequence_frames)
        """int64 (games,): positions of the games that are long enough."""
        self._unit_bounds, self._unit_games = _shuffle_units(row_group_numbers(index)[self.games], self.games)
        self._num_frames = int(self._lengths[self.games].sum())
        min_sequences = int(((last_starts - self._num_offsets + 1) // stride + 1)[self.games].sum())
        if min_sequences < batch_size:
            raise UserError(
                f"{len(self.games)} games have {min_sequences} sequences of {sequence_frames} frames, fewer than "
                f"optimizer.batch_size={batch_size}; use at most {min_sequences}, or more games"
            )
        self.num_pools = min(
            -(-self._num_frames // pool_frames), max(1, min_sequences // (MIN_BATCHES_PER_POOL * batch_size))
        )
        """Of every epoch."""
        units = np.concatenate([self._unit_bounds, self._unit_games])
        self.units_digest = hashlib.blake2b(units.astype("<i8").tobytes(), digest_size=8).hexdigest()
        """Identifies the shuffle units: of two orders with equal arguments, those with equal units are the same."""
        self._epoch: _Epoch | None = None

    def frames_per_worker(self, num_workers: int) -> int:
        """Estimated frames that one worker reads of a pool."""
        frames = -(-self._num_frames // self.num_pools)
        lanes = self._num_lanes(frames)
        lanes_read = min(lanes, -(-lanes // num_workers) + (lanes % num_workers > 0))
        return frames * lanes_read // lanes

    def pool(self, epoch: int, number: int) -> Pool:
        """The sequences of a pool, by batch."""
        plan = self._plan(epoch)
        num_batches = int(plan.bounds[-1]) // self.batch_size
        first, last = (num_batches * n // self.num_pools for n in (number, number + 1))
        order = np.arange(first * self.batch_size, last * self.batch_size)
        first_game = np.searchsorted(plan.bounds, order[0], side="right") - 1
        bounds = plan.bounds[first_game : np.searchsorted(plan.bounds, order[-1], side="right") + 1]
        games = plan.games[first_game : first_game + len(bounds) - 1]
        owner = np.repeat(np.arange(len(games)), np.diff(bounds.clip(order[0], order[-1] + 1)))
        starts = plan.offsets[games][owner] + self.stride * (order - bounds[owner])

        lanes = self._num_lanes(int(self._lengths[games].sum()))
        lane_bounds = np.arange(lanes + 1) * self.batch_size // lanes * (last - first)
        random, order = self._generator(epoch, 1, number), order - order[0]
        for start, end in itertools.pairwise(lane_bounds.tolist()):
            random.shuffle(order[start:end])
        by_batch = np.ascontiguousarray(order.reshape(self.batch_size, last - first).T)
        return Pool(games=games[owner].astype(np.int32)[by_batch], starts=starts[by_batch])

    def next_pool(self, cursor: Cursor) -> Cursor:
        """The first batch of the next pool."""
        if cursor.pool + 1 < self.num_pools:
            return Cursor(epoch=cursor.epoch, pool=cursor.pool + 1)
        return Cursor(epoch=cursor.epoch + 1)

    def nearest(self, cursor: Cursor, version: int) -> Cursor:
        """The position of a cursor, or if it belongs to another version of the order, the first batch of its pool."""
        if version == ORDER_VERSION:
            return cursor
        return Cursor(epoch=cursor.epoch, pool=min(cursor.pool, self.num_pools - 1))

    def _num_lanes(self, pool_frames: int) -> int:
        return self._lanes if pool_frames >= MIN_FRAMES_FOR_LANES else 1

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _plan(self, epoch: int) -> _Epoch:
        """The games of an epoch by permuted units, the offset of each, and the sequences that follow from it."""
        if self._epoch is None or self._epoch.number != epoch:
            units = self._generator(epoch, 0).permutation(len(self._unit_bounds) - 1)
            games = self._unit_games[concatenated_ranges(self._unit_bounds[units], self._unit_bounds[units + 1])]
            offsets = self._generator(epoch, 2).integers(self._num_offsets)
            counts = (self._lengths[games] - self.sequence_frames - offsets[games]) // self.stride + 1
            bounds = np.append(0, np.cumsum(counts))
            self._epoch = _Epoch(number=epoch, games=games, bounds=bounds, offsets=offsets)
        return self._epoch


def _shuffle_units(row_groups: np.ndarray, games: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group games by row group, or leave each on its own if there are few row groups.

    Args:
        row_groups: int64 (G,), the row group of each game.
        games: int64 (G,), positions in the index.
    Returns:
        Bounds of the units in the second array, int64 (units + 1,), and the games ordered by unit, int64 (G,).
    """
    by_group = np.argsort(row_groups, kind="stable")
    starts = np.flatnonzero(np.diff(row_groups[by_group], prepend=-1))
    if len(starts) < MIN_ROW_GROUPS:
        return np.arange(len(games) + 1), games
    return np.append(starts, len(games)), games[by_group]
