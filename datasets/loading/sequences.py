"""The order of a run's examples: a pure function of the games, the seed and a few numbers, whatever the workers.

An epoch shuffles units (row groups, or games of a small corpus), takes them in pools that fit in memory, cuts every
game into sequences from a random phase on, and deals the pool's sequences to batches. Ranks take contiguous parts of
each batch, so one cursor says where a run stands, and it goes on with another number of workers.
Why not through Ray Data: see `docs/architecture.md` and `benchmarks/input.py`.

Shape legend: B = batch, T = frames of a sequence, P = players (2), C = columns, S = sequences of a pool.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import FrameArrays, GameIndex, row_group_numbers
from datasets.runtime.errors import UserError

FEW_ROW_GROUPS = 64
"""With fewer row groups than that, single games are what an epoch shuffles."""
MIN_BATCHES_PER_POOL = 8
"""A pool holds at least so many, if the corpus does: a batch is then at most an eighth smaller than asked for."""
MIN_FRAMES_FOR_LANES = 1_000_000
"""Smaller pools are shuffled as a whole: that each worker reads all of one costs little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Sequences of T frames of one game each.

    floats: float32 (B, T, P, C); codes: int16 (B, T, P, C); game: int16 (B, C); columns as in
    `datasets.loading.frames`.
    """

    floats: np.ndarray
    codes: np.ndarray
    game: np.ndarray


def gather(frames: FrameArrays, facts: np.ndarray, starts: np.ndarray, num_frames: int) -> Batch:
    """Cut sequences of `num_frames` frames at the given rows.

    Args:
        facts: int16 (B, C), the game facts of each sequence.
        starts: int64 (B,), first rows in `frames`.
    """
    return take_rows(frames, facts, starts[:, None] + np.arange(num_frames))


def take_rows(frames: FrameArrays, facts: np.ndarray, rows_BT: np.ndarray) -> Batch:
    """A batch of the given rows, int64 (B, T)."""
    return Batch(floats=frames.floats[rows_BT], codes=frames.codes[rows_BT], game=facts)


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """start .. end-1 of one range after another: int64."""
    lengths = ends - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a run stands, all its workers together: the next batch."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """The sequences of one pool, batch after batch.

    games: int32 (S,), of the index; firsts: int64 (S,), first frame of the sequence within its game;
    bounds: int64 (batches + 1,): batch b is the sequences bounds[b] .. bounds[b + 1] - 1.
    """

    games: np.ndarray
    firsts: np.ndarray
    bounds: np.ndarray

    @property
    def num_batches(self) -> int:
        return len(self.bounds) - 1

    def share(self, rank: int, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """What one worker takes of each batch: an equal part, to one sequence; all workers together take it whole.

        Returns:
            First and last (excluded) sequence of the worker in each batch, int64 (batches,) both.
        """
        sizes = np.diff(self.bounds)
        # Parts of the largest batch: where batches are one shorter, the borders still are those of the lanes.
        borders = np.array([rank, rank + 1]) * sizes.max() // world_size
        return self.bounds[:-1] + np.minimum(borders[0], sizes), self.bounds[:-1] + np.minimum(borders[1], sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Epoch:
    """units: int64 (units,), shuffled; pools: int64 (pools + 1,), bounds in `units`; phases: int64 (games,)."""

    number: int
    units: np.ndarray
    pools: np.ndarray
    phases: np.ndarray


class SequenceOrder:
    """Which sequences make up each batch of a run, epoch after epoch, each sequence once an epoch.

    A pool's units follow one another; its sequences, cut into lanes of equally many, are shuffled within their lane,
    and every batch takes equally many from each lane. So a worker's part of all batches comes from its part of the
    lanes, and it need not read the rest (where the workers do not divide the lanes, some are read twice).
    With `stride` equal to the predictions of a sequence no target comes twice in an epoch.
    Memory: about 30 bytes a game, and the sequences of the pools that are asked for.
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
            sequence_frames: T of each sequence, its last target included. Shorter games are left out.
            stride: frames from one sequence to the next in the same game.
            batch_size: most sequences in a batch, over all workers.
            pool_frames: most frames of a pool, but for what a unit is larger; pools of fewer than
                MIN_BATCHES_PER_POOL batches are larger.
        Raises:
            UserError: no game is as long as a sequence.
        """
        longest = int(index.num_frames.max())
        if longest < sequence_frames:
            raise UserError(
                f"a sequence needs {sequence_frames} frames (context and target), the longest of {len(index)} "
                f"games has {longest}; use a shorter context_frames or sequence_frames"
            )
        self.sequence_frames, self.stride, self.batch_size = sequence_frames, stride, batch_size
        self._seed, self._lanes = seed, lanes
        self._lengths = index.num_frames.astype(np.int64)
        spare = np.maximum(0, self._lengths - sequence_frames)
        self._num_phases = np.minimum(stride, spare + 1)
        self.games = np.flatnonzero(self._lengths >= sequence_frames)
        """int64: the games that are long enough."""
        self._unit_bounds, self._unit_games = _units(row_group_numbers(index)[self.games], self.games)
        self._unit_frames = np.add.reduceat(self._lengths[self._unit_games], self._unit_bounds[:-1])
        least = int(((spare - self._num_phases + 1) // stride + 1)[self.games].sum())
        self._num_pools = min(
            -(-int(self._unit_frames.sum()) // pool_frames), max(1, least // (MIN_BATCHES_PER_POOL * batch_size))
        )
        self._epoch: _Epoch | None = None

    def frames_of_share(self, num_workers: int) -> int:
        """Frames of one worker's part of a pool, about."""
        frames = -(-int(self._unit_frames.sum()) // self._num_pools)
        lanes = self._lanes_of(frames)
        read = min(lanes, -(-lanes // num_workers) + (lanes % num_workers > 0))
        return frames * read // lanes

    def num_pools(self, epoch: int) -> int:
        """Pools of an epoch."""
        return len(self._plan(epoch).pools) - 1

    def pool(self, epoch: int, number: int) -> Pool:
        """The batches of a pool."""
        plan = self._plan(epoch)
        units = plan.units[plan.pools[number] : plan.pools[number + 1]]
        games = ranges(self._unit_bounds[units], self._unit_bounds[units + 1])
        games = self._unit_games[games]
        counts = (self._lengths[games] - self.sequence_frames - plan.phases[games]) // self.stride + 1
        order = np.arange(counts.sum())
        num_batches = -(-len(order) // self.batch_size)
        rounds = -(-len(order) // num_batches)
        lanes = self._lanes_of(int(self._lengths[games].sum()))
        borders = np.arange(lanes + 1) * rounds // lanes * num_batches
        random = self._generator(epoch, 1, number)
        for start, end in itertools.pairwise(borders.tolist()):
            random.shuffle(order[start:end])
        order, bounds = _dealt(order, num_batches)
        owner = np.repeat(np.arange(len(games)), counts)[order]
        firsts = plan.phases[games][owner] + self.stride * (order - (np.cumsum(counts) - counts)[owner])
        return Pool(games=games[owner].astype(np.int32), firsts=firsts, bounds=bounds)

    def following(self, cursor: Cursor) -> Cursor:
        """The first batch of the pool after that of the cursor."""
        if cursor.pool + 1 < self.num_pools(cursor.epoch):
            return Cursor(epoch=cursor.epoch, pool=cursor.pool + 1)
        return Cursor(epoch=cursor.epoch + 1)

    def _lanes_of(self, pool_frames: int) -> int:
        return self._lanes if pool_frames >= MIN_FRAMES_FOR_LANES else 1

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _plan(self, epoch: int) -> _Epoch:
        """The epoch's units, cut into pools of nearly equal frames, and the phase of each game."""
        if self._epoch is None or self._epoch.number != epoch:
            units = self._generator(epoch, 0).permutation(len(self._unit_frames))
            pool_of_unit = _equal_parts(self._unit_frames[units], self._num_pools)
            self._epoch = _Epoch(
                number=epoch,
                units=units,
                pools=np.append(np.flatnonzero(np.diff(pool_of_unit, prepend=-1)), len(units)),
                phases=self._generator(epoch, 2).integers(self._num_phases),
            )
        return self._epoch


def _units(row_groups: np.ndarray, games: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Games by row group, or each alone where there are few row groups.

    Args:
        row_groups, games: int64 (G,) both, the row group of each game and its number in the index.
    Returns:
        Bounds of the units, int64 (units + 1,), and the games, unit after unit.
    """
    by_group = np.argsort(row_groups, kind="stable")
    starts = np.flatnonzero(np.diff(row_groups[by_group], prepend=-1))
    if len(starts) < FEW_ROW_GROUPS:
        return np.arange(len(games) + 1), games
    return np.append(starts, len(games)), games[by_group]


def _equal_parts(weights: np.ndarray, num_parts: int) -> np.ndarray:
    """Cuts a row of weights into consecutive parts of about equal sums: the part of each, int64, never falling."""
    ends = np.cumsum(weights)
    return (2 * ends - weights) * num_parts // (2 * ends[-1])


def _dealt(order: np.ndarray, num_batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Deals sequences to batches like cards.

    Returns:
        order[b :: num_batches] for one batch b after another, and their bounds.
    """
    rounds = -(-len(order) // num_batches)
    places = np.arange(rounds * num_batches).reshape(rounds, num_batches).T.ravel()
    sizes = (len(order) - np.arange(num_batches) + num_batches - 1) // num_batches
    return order[places[places < len(order)]], np.append(0, np.cumsum(sizes))
