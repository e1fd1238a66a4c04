"""The order of training: every frame once an epoch over all ranks, and the very next batch after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from datasets import sequences
from datasets.corpus import open_corpus
from datasets.errors import UserError
from datasets.frames import FrameArrays, GameIndex, index_games, read_games
from datasets.sequences import Batch, Cursor, SequenceStream, gather
from datasets.splits import SplitConfig

S = 64
"""Predictions of a sequence."""

Streams = Callable[..., SequenceStream]


@pytest.fixture(scope="module")
def index(tiny_corpus) -> GameIndex:
    """All synthetic games."""
    return index_games(open_corpus(tiny_corpus), "all", SplitConfig())


@pytest.fixture
def num_reads() -> list[tuple[int, ...]]:
    """Which games each call of read_games asked for."""
    return []


@pytest.fixture
def stream(index: GameIndex, monkeypatch, num_reads) -> Streams:
    """Makes streams whose batches tell where they are from: the game in `game`, the row within it in `floats`."""

    def numbered(index: GameIndex, games: tuple[int, ...]) -> FrameArrays:
        num_reads.append(tuple(games))
        frames = read_games(index, games)
        frames.floats[:, 0, 0] = np.concatenate([np.arange(index.num_frames[game]) for game in games])
        return frames

    monkeypatch.setattr(sequences, "read_games", numbered)
    facts = index.facts.copy()
    facts[:, 0] = np.arange(len(index))

    def make(**options) -> SequenceStream:
        defaults = {"sequence_frames": S + 1, "stride": S, "batch_size": 16, "seed": 5}
        return SequenceStream(replace(index, facts=facts), **(defaults | options))

    return make


def epoch_of(stream: SequenceStream) -> list[Batch]:
    """Batches up to the end of the epoch that the stream is in."""
    epoch, batches = stream.cursor.epoch, []
    for batch in stream:
        batches.append(batch)
        if stream.cursor.epoch > epoch:
            break
    return batches


def places(batch: Batch) -> list[tuple[int, int]]:
    """(game, first row) of each sequence."""
    return list(zip(batch.game[:, 0].tolist(), batch.floats[:, 0, 0, 0].astype(int).tolist(), strict=True))


def targets(batches: list[Batch]) -> Counter[tuple[int, int]]:
    """How often each (game, row) is predicted, if every row but the first of a sequence is."""
    return Counter(
        (game, start + number)
        for batch in batches
        for game, start in places(batch)
        for number in range(1, batch.floats.shape[1])
    )


def assert_equal(first: Batch, second: Batch) -> None:
    for name in ("floats", "codes", "game"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_a_sequence_is_a_stretch_of_one_game_as_it_was_stored(index):
    stream = SequenceStream(index, sequence_frames=S + 1, stride=S, batch_size=16, seed=5)
    batch = next(iter(stream))
    games = [read_games(index, [game]) for game in range(len(index))]
    for row in range(len(batch.floats)):
        first = batch.floats[row, 0]
        found = [
            (game, start)
            for game, frames in enumerate(games)
            for start in np.flatnonzero((frames.floats == first).all(axis=(1, 2)))
            if np.array_equal(frames.floats[start : start + S + 1], batch.floats[row])
            and np.array_equal(frames.codes[start : start + S + 1], batch.codes[row])
        ]
        assert found
        assert any(np.array_equal(index.facts[game], batch.game[row]) for game, _ in found)
    assert batch.floats.dtype == np.float32
    assert batch.codes.dtype == batch.game.dtype == np.int16


def test_rows_follow_one_another_within_a_sequence(stream):
    for batch in epoch_of(stream()):
        rows = batch.floats[:, :, 0, 0]
        assert (np.diff(rows, axis=1) == 1).all()


@pytest.mark.parametrize("pool_frames", [1, 9_000, 1_000_000])
@pytest.mark.parametrize("world_size", [1, 3])
def test_with_the_stride_of_a_sequence_every_target_comes_once_an_epoch(stream, index, pool_frames, world_size):
    batches = [
        batch
        for rank in range(world_size)
        for batch in epoch_of(stream(pool_frames=pool_frames, rank=rank, world_size=world_size))
    ]
    counts = targets(batches)
    assert set(counts.values()) == {1}
    for game, length in enumerate(index.num_frames):
        rows = sorted(row for g, row in counts if g == game)
        # What a random phase leaves out at the start and what does not fill a sequence at the end.
        assert len(rows) > length - 2 * S
        assert rows == list(range(rows[0], rows[-1] + 1))


def test_with_a_stride_of_one_every_frame_with_a_full_context_is_a_target_once(stream, index):
    context = 10
    batches = epoch_of(stream(sequence_frames=context + 1, stride=1, batch_size=256))
    last = Counter((game, start + context) for batch in batches for game, start in places(batch))
    assert set(last.values()) == {1}
    assert set(last) == {(g, row) for g, length in enumerate(index.num_frames) for row in range(context, length)}


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_all_ranks_together_see_each_game_exactly_once_an_epoch(stream, index, world_size):
    for epoch in (0, 1):
        seen = []
        for rank in range(world_size):
            batches = epoch_of(stream(rank=rank, world_size=world_size, cursor=Cursor(epoch=epoch)))
            seen += sorted({game for batch in batches for game, _ in places(batch)})
        assert sorted(seen) == list(range(len(index)))


def test_row_groups_are_the_units_where_there_are_many(index, stream, monkeypatch):
    monkeypatch.setattr(sequences, "UNITS_PER_RANK", 1)
    monkeypatch.setattr(sequences, "read_games", lambda index, games: pytest.fail("nothing is to be read here"))
    one_shard = np.full(len(index), index.shards[0])
    grouped = replace(index, shards=one_shard, row_groups=np.arange(len(index)) // 3)
    made = SequenceStream(grouped, sequence_frames=S + 1, stride=S, batch_size=16, seed=5, world_size=2)
    assert sorted(made._units) == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)]
    monkeypatch.setattr(sequences, "UNITS_PER_RANK", 8)
    made = SequenceStream(grouped, sequence_frames=S + 1, stride=S, batch_size=16, seed=5, world_size=2)
    assert made._units == [(game,) for game in range(len(index))]


def test_two_ranks_never_share_a_sequence(stream):
    first, second = (epoch_of(stream(rank=rank, world_size=2)) for rank in (0, 1))
    assert not {p for batch in first for p in places(batch)} & {p for batch in second for p in places(batch)}


@pytest.mark.parametrize("pool_frames", [1, 9_000, 1_000_000])
def test_a_stream_resumed_from_any_cursor_goes_on_with_the_very_next_batch(stream, pool_frames):
    options = {"pool_frames": pool_frames, "batch_size": 24}
    epoch_length = len(epoch_of(stream(**options)))
    whole = stream(**options)
    batches, cursors = [], [whole.state()]
    for batch in islice(whole, epoch_length + 12):
        batches.append(batch)
        cursors.append(whole.state())
    borders = [n for n, cursor in enumerate(cursors) if cursor["batch"] == 0]
    for number in sorted({0, 1, 7, *borders[:4], epoch_length - 1, epoch_length, epoch_length + 1}):
        resumed = stream(**options, cursor=Cursor(**cursors[number]))
        for expected, found in zip(batches[number : number + 3], resumed, strict=False):
            assert_equal(expected, found)
    assert cursors[epoch_length] == {"epoch": 1, "pool": 0, "batch": 0}


def test_the_same_seed_gives_the_same_order_and_another_seed_another(stream):
    first, again, other = ([places(batch) for batch in islice(stream(seed=seed), 5)] for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_each_epoch_has_its_own_order_and_its_own_cuts(stream):
    first, second = (epoch_of(stream(cursor=Cursor(epoch=epoch))) for epoch in (0, 1))
    assert [places(batch) for batch in first] != [places(batch) for batch in second]
    cuts = [{place for batch in batches for place in places(batch)} for batches in (first, second)]
    assert len(cuts[0] & cuts[1]) < 0.2 * len(cuts[0])


def test_an_endless_stream_goes_through_epoch_after_epoch(stream):
    made = stream()
    one_epoch = [epoch_of(stream(cursor=Cursor(epoch=epoch))) for epoch in (0, 1)]
    for expected, found in zip([*one_epoch[0], *one_epoch[1]], made, strict=False):
        assert_equal(expected, found)


def test_sequences_of_all_games_of_a_pool_are_mixed(stream):
    batch = next(iter(stream(batch_size=64)))
    assert len({game for game, _ in places(batch)}) > 6


def test_batches_are_of_nearly_one_size(stream):
    sizes = [len(batch.floats) for batch in epoch_of(stream())]
    assert max(sizes) - min(sizes) <= 1
    assert abs(np.mean(sizes) - 16) < 1


def test_pools_smaller_than_the_corpus_are_read_one_after_another_and_one_ahead(stream, index, num_reads):
    made = stream(pool_frames=9_000)
    next(iter(made))
    assert len(num_reads) <= 2
    epoch_of(stream(pool_frames=9_000))
    sizes = [sum(index.num_frames[list(games)]) for games in num_reads]
    assert max(sizes) < 9_000 + index.num_frames.max()
    assert len(num_reads) > 3


def test_a_corpus_that_is_one_pool_is_read_once(stream, num_reads):
    made = stream(batch_size=64)
    for _ in islice(made, 60):
        pass
    assert made.cursor.epoch >= 3
    assert len(num_reads) == 1


def test_a_game_shorter_than_a_sequence_is_left_out(stream, index):
    longest = int(index.num_frames.max())
    batches = epoch_of(stream(sequence_frames=longest, stride=longest - 1))
    found = {game for batch in batches for game, _ in places(batch)}
    assert found == set(np.flatnonzero(index.num_frames == longest).tolist())


def test_a_game_as_long_as_a_sequence_is_taken_whole_whatever_the_phase(index, stream):
    exact = int(index.num_frames.min())
    for seed in range(3):
        batches = epoch_of(stream(sequence_frames=exact, stride=exact - 1, seed=seed))
        starts = dict(place for batch in batches for place in places(batch))
        for game in np.flatnonzero(index.num_frames == exact):
            assert starts[int(game)] == 0


def test_a_sequence_longer_than_any_game_is_a_users_error(index):
    with pytest.raises(UserError, match="the longest of 12 games has"):
        SequenceStream(index, sequence_frames=100_000, stride=1, batch_size=4, seed=0)


def test_more_workers_than_games_is_a_users_error(index):
    with pytest.raises(UserError, match="12 games cannot be shared by 13 workers"):
        SequenceStream(index, sequence_frames=65, stride=64, batch_size=4, seed=0, world_size=13)


def test_a_rank_that_an_epoch_gives_no_sequence_goes_on_to_one_that_does(index):
    # One game alone is long enough, and in each epoch it is one rank's.
    lengths = np.full(len(index), 30)
    lengths[3] = index.num_frames[3]
    short = replace(index, num_frames=lengths)
    epochs = []
    for rank in (0, 1):
        stream = SequenceStream(
            short, sequence_frames=65, stride=64, batch_size=4, seed=0, rank=rank, world_size=2, pool_frames=50
        )
        assert len(next(iter(stream)).floats) == 4
        epochs.append(stream.cursor.epoch)
    assert min(epochs) == 0 < max(epochs)


def test_games_read_in_any_order_are_those_read_alone(index):
    order = [7, 2, 11, 0]
    together = read_games(index, order)
    start = 0
    for game in order:
        alone = read_games(index, [game])
        assert np.array_equal(together.floats[start : start + len(alone)], alone.floats)
        assert np.array_equal(together.codes[start : start + len(alone)], alone.codes)
        start += len(alone)
    assert start == len(together)


def test_gathering_cuts_at_the_rows_asked_for(index):
    frames = read_games(index, [2, 5])
    starts = np.array([0, 7, 100])
    batch = gather(frames, index.facts[[2, 2, 2]], starts, 4)
    for row, start in enumerate(starts):
        assert np.array_equal(batch.floats[row], frames.floats[start : start + 4])
        assert np.array_equal(batch.codes[row], frames.codes[start : start + 4])
