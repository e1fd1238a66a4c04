"""Shares on the device: the games as stored, the same batches however they get there, and threads that end."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from waiting import close_during_a_read, wait_until

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import BYTES_PER_FRAME, GameIndex, index_games, read_games
from datasets.loading.sequences import Cursor, SequenceOrder
from datasets.runtime.errors import UserError
from datasets.schema.splits import SplitConfig
from wm.config.run_config import DataConfig
from wm.data import batches, pools
from wm.data.batches import BatchLoader, LocalBatch, device_bytes, fits_in_device_memory, gather_sequences, unused_bytes

S = 64
ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
Feeds = Callable[..., BatchLoader]
MANY_POOLS = 9_000


@pytest.fixture(scope="module")
def small_index(tiny_corpus) -> GameIndex:
    """All synthetic games."""
    return index_games(open_corpus(tiny_corpus), "all", SplitConfig())


@pytest.fixture
def feed(small_index):
    """Makes feeds, and closes them."""
    made = []

    def make(index: GameIndex = small_index, resident: str = "never", rank=0, world_size=1, cursor=None, **options):
        defaults = {"sequence_frames": S + 1, "stride": S, "batch_size": 16, "seed": 5, "pool_frames": MANY_POOLS}
        order = SequenceOrder(index, **(defaults | options))
        data = DataConfig(device_cache=resident)
        made.append(BatchLoader(order, index, CPU, rank=rank, world_size=world_size, cursor=cursor, data=data))
        return made[-1]

    yield make
    for each in made:
        each.close()


def shares_of(feed: BatchLoader, number: int) -> list[LocalBatch]:
    return [next(feed) for _ in range(number)]


def assert_equal(first: LocalBatch, second: LocalBatch) -> None:
    assert first.num_examples == second.num_examples
    assert torch.equal(first.game, second.game)
    for name in ("floats", "codes", "game"):
        assert torch.equal(getattr(first.frames, name), getattr(second.frames, name)), name


def feed_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(("prefetch", "row-groups"))]


@pytest.mark.parametrize("resident", ["never", "always"])
def test_a_share_is_the_frames_of_its_order_as_they_are_stored(index, whole_games, feed, resident):
    order = SequenceOrder(index, sequence_frames=S + 1, stride=S, batch_size=32, seed=5, pool_frames=200_000)
    made = feed(index, resident, batch_size=32, pool_frames=200_000)
    for number in range(2):
        pool = order.pool(0, 0)
        share = next(made)
        assert share.num_examples == 32 == len(share.frames.floats)
        for row, (game, first) in enumerate(zip(pool.games[number], pool.starts[number], strict=True)):
            stored = whole_games[game]
            assert np.array_equal(share.frames.floats[row].numpy(), stored.floats[first : first + S + 1])
            assert np.array_equal(share.frames.codes[row].numpy(), stored.codes[first : first + S + 1])
            assert np.array_equal(share.game[row].numpy(), index.facts[game])
    assert share.frames.floats.dtype == torch.float32
    assert share.frames.codes.dtype == share.game.dtype == torch.int16


@pytest.mark.parametrize("world_size", [1, 2])
def test_resident_and_pooled_frames_give_the_same_batches(feed, world_size):
    pooled, resident = (feed(resident=mode, rank=world_size - 1, world_size=world_size) for mode in ("never", "always"))
    assert (pooled.is_cached, resident.is_cached) == (False, True)
    while pooled.cursor.epoch < 2:
        assert_equal(next(pooled), next(resident))
        assert pooled.cursor == resident.cursor
    assert pooled.cursor.epoch == 2


@pytest.mark.parametrize("resident", ["never", "always"])
def test_the_shares_of_all_workers_are_the_batches_of_one(feed, resident):
    alone = feed(resident=resident)
    together = [feed(resident=resident, rank=rank, world_size=3) for rank in range(3)]
    while alone.cursor.epoch < 1:
        whole = next(alone)
        parts = [next(part) for part in together]
        for name in ("floats", "codes", "game"):
            joined = torch.cat([getattr(part.frames, name) for part in parts])
            assert torch.equal(joined, getattr(whole.frames, name))
        assert all(torch.equal(part.game, whole.game) for part in parts)
        assert {part.num_examples for part in parts} == {whole.num_examples}
        assert {part.cursor for part in together} == {alone.cursor}


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_feed_opened_at_any_cursor_goes_on_with_the_very_next_share(feed, world_size):
    options = {"rank": world_size - 1, "world_size": world_size}
    whole = feed(**options)
    shares, cursors = [], [whole.cursor]
    while whole.cursor.epoch < 1 or len(cursors) < cursors.index(Cursor(epoch=1)) + 3:
        shares.append(next(whole))
        cursors.append(whole.cursor)
    borders = [number for number, cursor in enumerate(cursors) if cursor.batch == 0]
    assert len(borders) > 3
    for number in sorted({0, 1, 5, *(b - 1 for b in borders[1:]), *borders}):
        resumed = feed(**options, cursor=cursors[number])
        assert resumed.cursor == cursors[number]
        for expected in shares[number : number + 2]:
            assert_equal(expected, next(resumed))


@pytest.mark.parametrize("resident", ["never", "always"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_batch_of_three_epochs_has_one_shape_on_each_rank(feed, resident, world_size):
    for rank in range(world_size):
        made = feed(resident=resident, rank=rank, world_size=world_size)
        shapes = set()
        while made.cursor.epoch < 3:
            share = next(made)
            shapes.add((share.num_examples, share.frames.floats.shape, share.frames.codes.shape, share.game.shape))
        assert len(shapes) == 1


def test_a_run_goes_on_with_another_number_of_workers_in_the_middle_of_an_epoch(feed):
    alone = feed()
    expected = []
    while alone.cursor.epoch < 1:
        expected.append(next(alone))
    cursor, found = Cursor(), []
    for world_size, number in ((1, 9), (3, 12), (2, 7), (4, len(expected) - 28)):
        workers = [feed(rank=rank, world_size=world_size, cursor=cursor) for rank in range(world_size)]
        for _ in range(number):
            found.append(torch.cat([next(worker).frames.floats for worker in workers]))
        cursor = workers[0].cursor
    assert cursor == Cursor(epoch=1)
    assert all(torch.equal(f, e.frames.floats) for f, e in zip(found, expected, strict=True))


def test_a_worker_reads_only_the_games_that_its_sequences_need(feed, monkeypatch):
    from datasets.loading import sequences

    monkeypatch.setattr(sequences, "MIN_FRAMES_FOR_LANES", 1)
    options = {"pool_frames": 1_000_000, "lanes": 4, "rank": 0, "world_size": 4}
    made = feed(**options)
    next(made)
    assert made._pool is not None
    whole = feed(pool_frames=1_000_000)
    next(whole)
    assert whole._pool is not None
    assert len(made._pool.floats) < 0.6 * len(whole._pool.floats)


def test_frames_of_two_pools_at_most_are_held_whatever_the_length_of_the_run(feed, small_index):
    made = feed()
    stores = set()
    while made.cursor.epoch < 3:
        next(made)
        assert made._pool is not None
        stores.add(id(made._pool.buffer))
        assert len(made._pool.floats) < MANY_POOLS + 2 * small_index.num_frames.max()
    assert len(stores) == 2


@pytest.mark.parametrize("pool_frames", [MANY_POOLS, 10**9])
@pytest.mark.parametrize(("resident", "world_size"), [("never", 1), ("never", 2), ("always", 1)])
def test_what_a_feed_will_hold_is_known_before_it_is_opened(feed, small_index, resident, world_size, pool_frames):
    made = feed(resident=resident, world_size=world_size, pool_frames=pool_frames)
    expected = device_bytes(
        made._order, small_index, CPU, DataConfig(device_cache=resident), world_size=world_size, local_ranks=1
    )
    next(made)
    loaded = {id(pool.buffer): pool for pool in (made._pool, made._next_pool.result())}.values()
    held = sum(array.nbytes for pool in loaded for array in (pool.floats, pool.codes))
    longest = int(small_index.num_frames.max()) * BYTES_PER_FRAME
    assert len(loaded) == (1 if resident == "always" else 2)
    assert held - 2 * longest < expected < held + 2 * longest


def test_a_share_stays_as_it_is_when_the_next_pools_are_read(feed):
    made, again = feed(), feed()
    kept = shares_of(made, 60)
    for share in kept:
        assert_equal(share, next(again))


def test_cut_sequences_are_those_of_a_loop():
    frames = torch.randn(50, 2, 3)
    starts = torch.tensor([0, 41, 7])
    found = gather_sequences(frames, starts, 9)
    assert torch.equal(found, torch.stack([frames[start : start + 9] for start in starts]))


def test_auto_is_resident_where_the_games_take_a_small_part_of_the_memory(small_index):
    order = SequenceOrder(small_index, sequence_frames=S + 1, stride=S, batch_size=16, seed=5)
    for share, expected in ((0.9, True), (1e-7, False)):
        with BatchLoader(
            order, small_index, CPU, data=DataConfig(device_cache="auto", device_cache_fraction=share)
        ) as made:
            assert made.is_cached is expected
            assert next(made).num_examples > 0


def test_memory_that_the_allocator_keeps_of_freed_tensors_counts_as_free(monkeypatch):
    assert unused_bytes(free=10, reserved=70, allocated=30) == 50
    # After a rollback: the frames and weights of the run before are freed, but still reserved by torch's allocator.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**9)
    data = DataConfig(device_cache="always", device_cache_fraction=0.5)
    assert fits_in_device_memory(30 * 10**9 // BYTES_PER_FRAME, torch.device("cuda"), data, 1)
    with pytest.raises(UserError, match=r"free GB"):
        fits_in_device_memory(40 * 10**9 // BYTES_PER_FRAME, torch.device("cuda"), data, 1)


def test_resident_games_that_do_not_fit_are_a_users_error_that_says_what_to_do(small_index):
    order = SequenceOrder(small_index, sequence_frames=S + 1, stride=S, batch_size=16, seed=5)
    with pytest.raises(UserError, match=r"data\.device_cache is always, .* GB.*set data\.device_cache: auto") as found:
        BatchLoader(order, small_index, CPU, data=DataConfig(device_cache="always", device_cache_fraction=1e-7))
    assert "\n" not in str(found.value)


def test_a_batch_too_small_for_the_workers_is_a_users_error(feed):
    with pytest.raises(UserError, match=r"batch_size=16 is less than one example for each of 17.*use at least 17"):
        feed(world_size=17)


def test_a_shard_that_cannot_be_read_is_the_readers_own_error(tiny_corpus, tmp_path, feed):
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    index = index_games(open_corpus(tmp_path / "corpus"), "all", SplitConfig())
    for shard in (tmp_path / "corpus" / "frames").iterdir():
        shard.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"cannot read .*parquet"):
        next(feed(index))


def test_closing_ends_the_threads(feed):
    made = feed()
    next(made)
    made.close()
    made.close()
    assert not feed_threads()


def test_closing_in_the_middle_of_a_read_does_not_wait_for_its_end(small_index, monkeypatch):
    begun, go_on, num_read = threading.Event(), threading.Event(), []

    def slow(index, games, **options):
        num_read.append(len(games))
        begun.set()
        assert go_on.wait(60)
        return read_games(index, games, **options)

    monkeypatch.setattr(pools, "read_games", slow)
    monkeypatch.setattr(pools, "row_group_numbers", lambda index: np.arange(len(index)))
    monkeypatch.setattr(batches, "MAX_READ_THREADS", 1)
    order = SequenceOrder(small_index, sequence_frames=S + 1, stride=S, batch_size=16, seed=5)
    made = BatchLoader(order, small_index, CPU, data=DataConfig(device_cache="always"))
    assert begun.wait(60)
    close_during_a_read(made.close, made._reader._stop, go_on)
    assert not feed_threads()
    assert len(num_read) <= 2 < len(small_index)


def test_a_feed_that_nobody_holds_any_more_leaves_no_thread(feed, small_index):
    order = SequenceOrder(small_index, sequence_frames=S + 1, stride=S, batch_size=16, seed=5)
    made = BatchLoader(order, small_index, CPU, data=DataConfig(device_cache="never"))
    next(made)
    del made
    gc.collect()
    wait_until(lambda: not feed_threads(), "the end of the threads")


def test_a_process_that_never_closes_its_feed_ends(tiny_corpus):
    program = f"""
import torch
from pathlib import Path
from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.loading.sequences import SequenceOrder
from datasets.schema.splits import SplitConfig
from wm.config.run_config import DataConfig
from wm.data.batches import BatchLoader
index = index_games(open_corpus(Path({str(tiny_corpus)!r})), "all", SplitConfig())
order = SequenceOrder(index, sequence_frames=65, stride=64, batch_size=16, seed=0, pool_frames=9_000)
feed = BatchLoader(order, index, torch.device("cpu"), data=DataConfig(device_cache="never"))
print(next(feed).num_examples)
raise SystemExit(3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.strip() == "16"


def test_waiting_is_counted(feed):
    made = feed()
    assert made.waited_s == 0
    next(made)
    first = made.waited_s
    assert first > 0
    made._next_pool.result()
    while made.cursor.pool == 0:
        next(made)
    next(made)
    assert made.waited_s - first < 0.05


@pytest.mark.slow
@pytest.mark.xdist_group("input-benchmark")
def test_the_benchmark_of_the_data_path_runs_and_gives_its_figures():
    command = [sys.executable, "benchmarks/input.py", "--tiny"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    names = ["frames_per_s", "sequences_per_s", "pyarrow_frames_per_s", "dataloader_frames_per_s"]
    assert all(figures[name] > 0 for name in [*names, "ray_data_frames_per_s", "resident_frames_per_s"])
    assert 0 <= figures["wait_share"] <= 1
    assert figures["device"]
