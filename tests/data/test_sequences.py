"""The training order: batches of one size, every sequence once per epoch, for any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from datasets.corpus.reader import open_corpus
from datasets.loading import sequences
from datasets.loading.frames import FrameArrays, GameIndex, index_games, read_games, row_group_numbers
from datasets.loading.sequences import (
    ORDER_VERSION,
    Cursor,
    Pool,
    SequenceOrder,
    concatenated_ranges,
    gather,
    rank_slice,
)
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig

S = 64
"""Predictions per sequence."""

Orders = Callable[..., SequenceOrder]
Sequence = tuple[int, int]
"""Game and first frame."""


@pytest.fixture(scope="module")
def index(tiny_corpus) -> GameIndex:
    """All synthetic games."""
    return index_games(open_corpus(tiny_corpus), "all", SplitConfig())


@pytest.fixture
def order(index) -> Orders:
    """A function that makes orders with small batches; `of` may be another index."""

    def make(of: GameIndex = index, **options) -> SequenceOrder:
        defaults = {"sequence_frames": S + 1, "stride": S, "batch_size": 16, "seed": 5}
        return SequenceOrder(of, **(defaults | options))

    return make


def grown(index: GameIndex, num_games: int, games_per_group: int = 3) -> GameIndex:
    """An index of unreadable games with the lengths of the real ones, in row groups."""
    source = np.arange(num_games) % len(index)
    groups = np.arange(num_games) // games_per_group
    return replace(
        index,
        game_ids=index.game_ids[source],
        num_frames=index.num_frames[source],
        shards=np.array([f"shard-{group // 4:06d}.parquet" for group in groups], dtype=object),
        row_groups=groups % 4,
        first_rows=index.first_rows[source],
        characters=index.characters[source],
        facts=index.facts[source],
    )


def batches_of(pool: Pool) -> Iterator[list[Sequence]]:
    """The sequences of each batch."""
    for games, starts in zip(pool.games.tolist(), pool.starts.tolist(), strict=True):
        yield list(zip(games, starts, strict=True))


def epoch_of(order: SequenceOrder, epoch: int = 0) -> list[list[Sequence]]:
    """All batches of an epoch."""
    return [batch for number in range(order.num_pools) for batch in batches_of(order.pool(epoch, number))]


def targets(batches: list[list[Sequence]], predictions: int = S) -> Counter[Sequence]:
    """How often each (game, row) is predicted, if every row of a sequence except the first is."""
    return Counter(
        (game, start + number) for batch in batches for game, start in batch for number in range(1, predictions + 1)
    )


@pytest.mark.parametrize("pool_frames", [1, 9_000, 4_000_000])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_every_target_occurs_once_per_epoch_if_the_stride_is_a_sequence(order, index, pool_frames, batch_size):
    counts = targets(epoch_of(order(pool_frames=pool_frames, batch_size=batch_size)))
    assert set(counts.values()) == {1}
    dropped = 0
    for game, length in enumerate(index.num_frames):
        rows = sorted(row for g, row in counts if g == game)
        # The random offset skips frames at the start; the rest at the end does not fill a sequence.
        dropped += max(0, length - 2 * S + 1 - len(rows))
        assert len(rows) % S == 0 and rows[-1] < length
        assert rows == list(range(rows[0], rows[-1] + 1))
    assert dropped <= (batch_size - 1) * S


def test_with_a_stride_of_one_every_frame_with_a_full_context_is_a_target_once(order, index):
    context = 10
    batches = epoch_of(order(sequence_frames=context + 1, stride=1, batch_size=256))
    last = Counter((game, start + context) for batch in batches for game, start in batch)
    assert set(last.values()) == {1}
    every = {(g, row) for g, length in enumerate(index.num_frames) for row in range(context, length)}
    assert set(last) <= every and len(every) - len(last) < 256


def test_an_epoch_of_many_row_groups_has_every_sequence_once(order, index):
    many = grown(index, 300)
    made = order(many, pool_frames=200_000, batch_size=64)
    assert made.num_pools > 2
    counts = targets(epoch_of(made))
    assert set(counts.values()) == {1}
    assert len({game for game, _ in counts}) >= 298  # what is dropped is less than a batch, of one or two games


@pytest.mark.parametrize("batch_size", [7, 16, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_batches_of_three_epochs_have_one_size_and_so_has_each_ranks_part(order, index, world_size, batch_size):
    made = order(grown(index, 100), pool_frames=100_000, batch_size=batch_size)
    assert made.num_pools > 2
    for epoch in range(3):
        pools = [made.pool(epoch, number) for number in range(made.num_pools)]
        assert {pool.games.shape[1] for pool in pools} == {pool.starts.shape[1] for pool in pools} == {batch_size}
        parts = [
            pool.starts[:, rank_slice(batch_size, rank, world_size)] for pool in pools for rank in range(world_size)
        ]
        assert len({part.shape[1] for part in parts}) <= (1 if batch_size % world_size == 0 else 2)
        seen = [sequence for pool in pools for batch in batches_of(pool) for sequence in batch]
        assert len(seen) == len(set(seen))
        assert made._plan(epoch).bounds[-1] - len(seen) < batch_size


def test_what_is_dropped_at_the_end_of_an_epoch_is_another_part_in_each(order, index):
    made, dropped = order(batch_size=50), []
    for epoch in range(3):
        seen = {sequence for batch in epoch_of(made, epoch) for sequence in batch}
        offsets = made._plan(epoch).offsets
        every = {(g, s) for g, n in enumerate(index.num_frames.tolist()) for s in range(offsets[g], n - S, S)}
        assert seen < every and len(every - seen) < 50
        dropped.append(frozenset(game for game, _ in every - seen))
    assert len(set(dropped)) > 1


def test_fewer_sequences_than_a_batch_are_a_user_error(order, index):
    with pytest.raises(
        UserError, match=r"12 games have \d+ sequences of 65 frames, fewer than optimizer.batch_size=5000"
    ):
        order(batch_size=5_000)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_slices_of_all_ranks_are_the_batch(order, world_size, lanes, monkeypatch):
    monkeypatch.setattr(sequences, "MIN_FRAMES_FOR_LANES", 1)
    made = order(lanes=lanes, pool_frames=9_000)
    for number in range(made.num_pools):
        pool = made.pool(0, number)
        parts = [pool.starts[:, rank_slice(16, rank, world_size)] for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts, axis=1), pool.starts)
        sizes = [part.shape[1] for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_an_epoch_has_every_sequence_once_if_the_number_of_workers_changes(order):
    made = order(pool_frames=9_000)
    seen: list[Sequence] = []
    number = 0
    for pool_number in range(made.num_pools):
        for batch in batches_of(made.pool(0, pool_number)):
            world_size = 1 + number // 5 % 4  # the number of workers changes after every five batches
            for rank in range(world_size):
                seen += batch[rank_slice(16, rank, world_size)]
            number += 1
    assert number > 20
    assert len(seen) == len(set(seen))
    assert sorted(seen) == sorted(sequence for batch in epoch_of(made) for sequence in batch)


def test_a_worker_reads_only_its_fraction_of_the_games(order, index, monkeypatch):
    many = grown(index, 600)
    monkeypatch.setattr(sequences, "MIN_FRAMES_FOR_LANES", 1)
    pool = order(many, lanes=8, batch_size=128).pool(0, 0)
    for rank in range(4):
        mine = np.unique(pool.games[:, rank_slice(128, rank, 4)])
        assert 0.24 < len(mine) / 600 < 0.27
    whole = order(many, lanes=1, batch_size=128).pool(0, 0)
    assert len(np.unique(whole.games[:, rank_slice(128, 0, 4)])) > 0.95 * 600


def test_every_batch_takes_equally_many_sequences_from_each_lane(order, index, monkeypatch):
    many = grown(index, 300)
    monkeypatch.setattr(sequences, "MIN_FRAMES_FOR_LANES", 1)
    made = order(many, lanes=4, batch_size=64)
    pool = made.pool(0, 0)
    batches = list(batches_of(pool))
    # The games of the first lane, collected from the first quarter of every batch.
    first_lane = {game for batch in batches for game, _ in batch[: len(batch) // 4 - 1]}
    counts = [sum(game in first_lane for game, _ in batch) for batch in batches]
    assert max(counts) - min(counts) <= 4
    assert len(first_lane) < 100


def test_a_small_pool_has_a_single_lane(order):
    for batch in epoch_of(order(batch_size=64))[:5]:
        assert len({game for game, _ in batch}) > 6


def test_pools_have_nearly_equal_numbers_of_frames_up_to_pool_frames(order, index):
    many = grown(index, 600)
    made = order(many, pool_frames=300_000)
    unit = 3 * int(index.num_frames.max())
    frames = [int(many.num_frames[np.unique(made.pool(0, n).games)].sum()) for n in range(made.num_pools)]
    assert len(frames) > 3
    assert max(frames) <= 300_000 + unit
    assert max(frames) - min(frames) <= 2 * unit


def test_pools_hold_several_batches_even_if_pool_frames_is_small(order):
    made = order(pool_frames=1, batch_size=24)
    sizes = [made.pool(0, number).num_batches for number in range(made.num_pools)]
    assert len(sizes) > 1
    assert min(sizes) >= sequences.MIN_BATCHES_PER_POOL // 2


def test_the_shuffle_units_are_row_groups_or_games_if_there_are_few_row_groups(order, index):
    for num_groups, games_apart in ((sequences.MIN_ROW_GROUPS, 3), (sequences.MIN_ROW_GROUPS - 1, 1)):
        made = order(grown(index, 3 * num_groups))
        units = np.split(made._unit_games, made._unit_bounds[1:-1])
        assert {len(unit) for unit in units} == {games_apart}
        assert sorted(game for unit in units for game in unit) == list(range(3 * num_groups))


def test_games_of_one_row_group_have_the_same_number(index):
    many = grown(index, 30)
    numbers = row_group_numbers(many)
    assert (numbers.reshape(10, 3) == numbers.reshape(10, 3)[:, :1]).all()
    assert len(np.unique(numbers)) == 10


def test_equal_seeds_give_equal_orders_and_another_seed_gives_another(order):
    first, again, other = (epoch_of(order(seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_pool_does_not_depend_on_earlier_calls(order):
    straight = order(pool_frames=9_000)
    expected = {(epoch, n): straight.pool(epoch, n) for epoch in (0, 1) for n in range(straight.num_pools)}
    for (epoch, number), pool in reversed(expected.items()):
        found = order(pool_frames=9_000).pool(epoch, number)
        for name in ("games", "starts"):
            assert np.array_equal(getattr(found, name), getattr(pool, name))


def test_each_epoch_has_another_order_and_other_offsets(order):
    made = order()
    first, second = epoch_of(made, 0), epoch_of(made, 1)
    assert first != second
    cuts = [{sequence for batch in batches for sequence in batch} for batches in (first, second)]
    assert len(cuts[0] & cuts[1]) < 0.2 * len(cuts[0])


def test_cursors_advance_through_pools_and_epochs(order):
    made = order(pool_frames=9_000)
    cursor, seen = Cursor(batch=3), []
    while cursor.epoch < 2:
        cursor = made.next_pool(cursor)
        seen.append((cursor.epoch, cursor.pool))
        assert cursor.batch == 0
    pools = [(epoch, pool) for epoch in (0, 1) for pool in range(made.num_pools)]
    assert seen == [*pools[1:], (2, 0)]


def test_a_cursor_of_an_older_order_continues_at_the_beginning_of_its_pool(order):
    made = order(pool_frames=9_000)
    cursor = Cursor(epoch=2, pool=1, batch=3)
    assert made.nearest(cursor, ORDER_VERSION) == cursor
    assert made.nearest(cursor, 1) == Cursor(epoch=2, pool=1)
    assert made.nearest(Cursor(epoch=2, pool=99, batch=1), 1) == Cursor(epoch=2, pool=made.num_pools - 1)


def test_a_game_shorter_than_a_sequence_is_left_out(order, index):
    longest = int(index.num_frames.max())
    batches = epoch_of(order(sequence_frames=longest, stride=longest - 1, batch_size=1))
    found = {game for batch in batches for game, _ in batch}
    assert found == set(np.flatnonzero(index.num_frames == longest).tolist())


def test_a_game_as_long_as_a_sequence_is_one_sequence_for_every_seed(order, index):
    exact = int(index.num_frames.min())
    for seed in range(3):
        starts = dict(
            sequence
            for batch in epoch_of(order(sequence_frames=exact, stride=exact - 1, seed=seed, batch_size=1))
            for sequence in batch
        )
        for game in np.flatnonzero(index.num_frames == exact):
            assert starts[int(game)] == 0


def test_a_sequence_longer_than_every_game_is_a_user_error(order):
    with pytest.raises(UserError, match="the longest of 12 games has"):
        order(sequence_frames=100_000)


def test_a_pool_of_a_large_corpus_is_computed_on_its_own(index):
    many = grown(index, 50_000)
    made = SequenceOrder(many, sequence_frames=S + 1, stride=S, batch_size=512, seed=0)
    pool = made.pool(0, made.num_pools - 1)
    assert pool.games.size * S < 5_000_000
    assert made.num_pools > 10


def test_concatenated_ranges_equal_those_of_python():
    starts, ends = np.array([3, 5, 5, 0]), np.array([5, 5, 9, 1])
    assert concatenated_ranges(starts, ends).tolist() == [
        n for a, b in zip(starts, ends, strict=True) for n in range(a, b)
    ]


def test_games_read_together_equal_games_read_alone(index):
    order = [7, 2, 11, 0]
    together = read_games(index, order)
    start = 0
    for game in order:
        alone = read_games(index, [game])
        assert np.array_equal(together.floats[start : start + len(alone)], alone.floats)
        assert np.array_equal(together.codes[start : start + len(alone)], alone.codes)
        start += len(alone)
    assert start == len(together)


def test_reading_into_existing_arrays_overwrites_them(index):
    expected = read_games(index, [3, 4])
    out = FrameArrays(floats=np.full_like(expected.floats, 7), codes=np.full_like(expected.codes, 7))
    assert read_games(index, [3, 4], out=out) is out
    assert np.array_equal(out.floats, expected.floats)
    assert np.array_equal(out.codes, expected.codes)


def test_gather_cuts_at_the_given_rows(index):
    frames = read_games(index, [2, 5])
    starts = np.array([0, 7, 100])
    batch = gather(frames, index.facts[[2, 2, 2]], starts, 4)
    for row, start in enumerate(starts):
        assert np.array_equal(batch.floats[row], frames.floats[start : start + 4])
        assert np.array_equal(batch.codes[row], frames.codes[start : start + 4])
