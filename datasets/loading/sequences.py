"""The order of the training sequences: a pure function of the games, the seed and a few sizes, not of the workers.

An epoch shuffles the corpus in two levels, as shuffle buffers over shards do:

1. Shuffle units (row groups, or single games if there are few row groups) are permuted and split into pools. A pool is
   a shuffle buffer: the frames that are in memory together.
2. Each game of a pool is cut into sequences, starting at a random offset. The sequences of a pool are shuffled within
   lanes (contiguous stripes of the pool), and every batch takes equally many sequences from each lane.

Each rank takes a contiguous part of every batch, so a single cursor is the position of all workers, a run can resume
with another number of workers, and a rank reads only the lanes of its part.
`docs/architecture.md` and `benchmarks/input.py` compare this with Ray Data.

Shape legend: B = batch, T = frames of a sequence, P = players (2), C = columns, S = sequences of a pool.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import FrameArrays, GameIndex, row_group_numbers
from datasets.runtime.errors import UserError

MIN_ROW_GROUPS = 64
"""With fewer row groups the shuffle units are single games."""
MIN_BATCHES_PER_POOL = 8
"""If the corpus is large enough. Batches are then at most an eighth smaller than the batch size."""
MIN_FRAMES_FOR_LANES = 1_000_000
"""Smaller pools have a single lane, because it costs little if every worker reads all of such a pool."""


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
    """The sequences of one pool, ordered by batch.

    games: int32 (S,), position in the GameIndex; starts: int64 (S,), first frame of the sequence within its game;
    bounds: int64 (batches + 1,), batch b consists of the sequences bounds[b] .. bounds[b + 1] - 1.
    """

    games: np.ndarray
    starts: np.ndarray
    bounds: np.ndarray

    @property
    def num_batches(self) -> int:
        return len(self.bounds) - 1

    def rank_slices(self, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each batch that belongs to one rank. Parts differ by at most one sequence, and cover the batch.

        Returns:
            Start and end (exclusive) of the rank's sequences in each batch, int64 (batches,) both.
        """
        sizes = np.diff(self.bounds)
        # Split by the size of the largest batch, so that the parts of smaller batches align with the same lanes.
        start, end = np.array([rank, rank + 1]) * sizes.max() // world_size
        return self.bounds[:-1] + np.minimum(start, sizes), self.bounds[:-1] + np.minimum(end, sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Epoch:
    """The shuffled units of an epoch, split into pools, and where each game is cut.

    units: int64 (units,), permuted; pool_bounds: int64 (pools + 1,), bounds in `units`; offsets: int64 (games,), first
    frame of the first sequence of each game.
    """

    number: int
    units: np.ndarray
    pool_bounds: np.ndarray
    offsets: np.ndarray


class SequenceOrder:
    """The sequences of each batch of a run. Every epoch contains each sequence once.

    A rank reads only the lanes that its part of the batches comes from. If the number of ranks does not divide the
    number of lanes, two ranks read the same lane. With `stride` equal to the number of predictions in a sequence, each
    target occurs at most once per epoch.
    Memory: about 30 bytes per game, plus the sequences of the pools in use.
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
            batch_size: maximum number of sequences in a batch, over all workers.
            pool_frames: maximum frames of a pool, exceeded by up to one shuffle unit, or to hold MIN_BATCHES_PER_POOL.
            lanes: contiguous stripes of a pool that are shuffled separately.
        Raises:
            UserError: every game is shorter than a sequence.
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
        self._unit_frames = np.add.reduceat(self._lengths[self._unit_games], self._unit_bounds[:-1])
        min_sequences = int(((last_starts - self._num_offsets + 1) // stride + 1)[self.games].sum())
        self._num_pools = min(
            -(-int(self._unit_frames.sum()) // pool_frames),
            max(1, min_sequences // (MIN_BATCHES_PER_POOL * batch_size)),
        )
        self._epoch: _Epoch | None = None

    def frames_per_worker(self, num_workers: int) -> int:
        """Estimated frames that one worker reads of a pool."""
        frames = -(-int(self._unit_frames.sum()) // self._num_pools)
        lanes = self._num_lanes(frames)
        lanes_read = min(lanes, -(-lanes // num_workers) + (lanes % num_workers > 0))
        return frames * lanes_read // lanes

    def num_pools(self, epoch: int) -> int:
        """The number of pools in an epoch."""
        return len(self._plan(epoch).pool_bounds) - 1

    def pool(self, epoch: int, number: int) -> Pool:
        """The sequences of a pool, by batch."""
        plan = self._plan(epoch)
        units = plan.units[plan.pool_bounds[number] : plan.pool_bounds[number + 1]]
        games = self._unit_games[concatenated_ranges(self._unit_bounds[units], self._unit_bounds[units + 1])]
        counts = (self._lengths[games] - self.sequence_frames - plan.offsets[games]) // self.stride + 1
        order = np.arange(counts.sum())
        num_batches = -(-len(order) // self.batch_size)
        largest_batch = -(-len(order) // num_batches)
        lanes = self._num_lanes(int(self._lengths[games].sum()))
        lane_bounds = np.arange(lanes + 1) * largest_batch // lanes * num_batches
        random = self._generator(epoch, 1, number)
        for start, end in itertools.pairwise(lane_bounds.tolist()):
            random.shuffle(order[start:end])
        order, bounds = _deal_round_robin(order, num_batches)
        owner = np.repeat(np.arange(len(games)), counts)[order]
        starts = plan.offsets[games][owner] + self.stride * (order - (np.cumsum(counts) - counts)[owner])
        return Pool(games=games[owner].astype(np.int32), starts=starts, bounds=bounds)

    def next_pool(self, cursor: Cursor) -> Cursor:
        """The first batch of the next pool."""
        if cursor.pool + 1 < self.num_pools(cursor.epoch):
            return Cursor(epoch=cursor.epoch, pool=cursor.pool + 1)
        return Cursor(epoch=cursor.epoch + 1)

    def _num_lanes(self, pool_frames: int) -> int:
        return self._lanes if pool_frames >= MIN_FRAMES_FOR_LANES else 1

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _plan(self, epoch: int) -> _Epoch:
        """The permuted units of an epoch, split into pools of nearly equal frames, and the offset of each game."""
        if self._epoch is None or self._epoch.number != epoch:
            units = self._generator(epoch, 0).permutation(len(self._unit_frames))
            pool_of_unit = _balanced_split(self._unit_frames[units], self._num_pools)
            self._epoch = _Epoch(
                number=epoch,
                units=units,
                pool_bounds=np.append(np.flatnonzero(np.diff(pool_of_unit, prepend=-1)), len(units)),
                offsets=self._generator(epoch, 2).integers(self._num_offsets),
            )
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


def _balanced_split(weights: np.ndarray, num_parts: int) -> np.ndarray:
    """Split a sequence of weights into contiguous parts of nearly equal sums.

    Returns:
        int64 (weights,), the part of each weight, non-decreasing.
    """
    ends = np.cumsum(weights)
    return (2 * ends - weights) * num_parts // (2 * ends[-1])


def _deal_round_robin(order: np.ndarray, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Distribute sequences over batches: batch b is order[b::num_batches].

    Returns:
        The batches, concatenated, and their bounds, int64 (batches + 1,).
    """
    rounds = -(-len(order) // num_batches)
    positions = np.arange(rounds * num_batches).reshape(rounds, num_batches).T.ravel()
    sizes = (len(order) - np.arange(num_batches) + num_batches - 1) // num_batches
    return order[positions[positions < len(order)]], np.append(0, np.cumsum(sizes))
