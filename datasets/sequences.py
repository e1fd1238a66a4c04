"""Training batches in an order that comes from (seed, epoch) alone, so that a resumed run goes on with the
very batch that was next. Why not through Ray Data: see `docs/architecture.md` and `benchmarks/loader.py`.

Shape legend: B = batch, T = frames of a sequence, P = players (2), C = columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from datasets.errors import UserError
from datasets.frames import FrameArrays, GameIndex, read_games

UNITS_PER_RANK = 8
"""A rank's share of an epoch is counted in row groups where there are that many for it, in games otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Sequences of T frames of one game each.

    floats: float32 (B, T, P, C); codes: int16 (B, T, P, C); game: int16 (B, C); columns as in `datasets.frames`.
    """

    floats: np.ndarray
    codes: np.ndarray
    game: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where a rank stands in its stream: the next batch."""

    epoch: int = 0
    pool: int = 0
    batch: int = 0


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


class SequenceStream:
    """One rank's endless stream of batches.

    Each epoch shuffles units (row groups, or games of a small corpus) over the ranks; a rank reads its units
    in pools of about `pool_frames`, cuts every game into sequences from a random phase on, and shuffles these
    within the pool. With `stride` equal to the sequence's length no target comes twice in an epoch.
    """

    def __init__(
        self,
        index: GameIndex,
        *,
        sequence_frames: int,
        stride: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        pool_frames: int = 1_000_000,
        cursor: Cursor | None = None,
    ) -> None:
        """
        Args:
            sequence_frames: T of each sequence, its last target included.
            stride: frames from one sequence to the next in the same game.
        Raises:
            UserError: no game is as long as a sequence, or there are fewer games than ranks.
        """
        longest = int(index.num_frames.max())
        if longest < sequence_frames:
            raise UserError(
                f"a sequence needs {sequence_frames} frames (context and target), the longest of {len(index)} "
                f"games has {longest}; use a shorter context_frames or sequence_frames"
            )
        if len(index) < world_size:
            raise UserError(f"{len(index)} games cannot be shared by {world_size} workers; use fewer num_workers")
        self._index = index
        self._sequence_frames = sequence_frames
        self._stride = stride
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._pool_frames = pool_frames
        self._units = _units(index, world_size)
        self._kept: tuple[tuple[int, ...], FrameArrays] | None = None
        self.cursor = cursor or Cursor()

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on; the cursor always names the batch after the one yielded."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(self._read, self.cursor.epoch, self.cursor.pool)
            while True:
                frames, games, pool_count = ahead.result()
                following = self._following_pool(pool_count)
                ahead = reader.submit(self._read, following.epoch, following.pool)
                starts, owners = self._starts(games)
                order = self._generator(self.cursor.epoch, 1, self.cursor.pool).permutation(len(starts))
                parts = np.array_split(order, max(1, round(len(order) / self._batch_size)))
                assert self.cursor.batch < len(parts), "a cursor of other games"
                for number in range(self.cursor.batch, len(parts)):
                    last = number == len(parts) - 1
                    self.cursor = following if last else replace(self.cursor, batch=number + 1)
                    chosen = parts[number]
                    if len(chosen):
                        facts = self._index.facts[owners[chosen]]
                        yield gather(frames, facts, starts[chosen], self._sequence_frames)

    def state(self) -> dict[str, int]:
        """The cursor as plain data, for a checkpoint."""
        return asdict(self.cursor)

    def _following_pool(self, pool_count: int) -> Cursor:
        if self.cursor.pool + 1 < pool_count:
            return Cursor(epoch=self.cursor.epoch, pool=self.cursor.pool + 1)
        return Cursor(epoch=self.cursor.epoch + 1)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _pools(self, epoch: int) -> list[tuple[int, ...]]:
        """This rank's games of an epoch, pool by pool."""
        order = self._generator(epoch, 0).permutation(len(self._units))
        mine = [self._units[unit] for unit in order[self._rank :: self._world_size]]
        pools: list[list[int]] = [[]]
        frames = 0
        for unit in mine:
            if pools[-1] and frames >= self._pool_frames:
                pools.append([])
                frames = 0
            pools[-1].extend(unit)
            frames += int(self._index.num_frames[list(unit)].sum())
        return [tuple(pool) for pool in pools]

    def _read(self, epoch: int, pool: int) -> tuple[FrameArrays, np.ndarray, int]:
        """A pool's frames; a corpus that is one pool is read once."""
        pools = self._pools(epoch)
        games = tuple(sorted(pools[pool]))
        if self._kept is None or self._kept[0] != games:
            self._kept = (games, read_games(self._index, games))
        return self._kept[1], np.asarray(games), len(pools)

    def _starts(self, games: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the pool's sequences, and the game of each."""
        lengths = self._index.num_frames[games]
        offsets = np.cumsum(lengths) - lengths
        starts, owners = [], []
        for game, offset, length in zip(games, offsets, lengths, strict=True):
            phase = self._generator(self.cursor.epoch, 2, int(game)).integers(self._stride)
            first = np.arange(min(phase, max(0, length - self._sequence_frames)), length, self._stride)
            first = first[first + self._sequence_frames <= length]
            starts.append(offset + first)
            owners.append(np.full(len(first), game))
        return np.concatenate(starts), np.concatenate(owners)


def _units(index: GameIndex, world_size: int) -> list[tuple[int, ...]]:
    """Games by row group, or each alone where there are few row groups."""
    groups: dict[tuple[str, int], list[int]] = {}
    for game in range(len(index)):
        groups.setdefault((str(index.shards[game]), int(index.row_groups[game])), []).append(game)
    if len(groups) < UNITS_PER_RANK * world_size:
        return [(game,) for game in range(len(index))]
    return [tuple(games) for games in groups.values()]
