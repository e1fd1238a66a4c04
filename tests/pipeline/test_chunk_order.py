"""Chunks that several readers make of the sources, and the order of their results."""

from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archive_making import write_archive

from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.chunk_order import in_order
from datasets.pipeline.feed import SCAN, Chunk, Feed, Position
from datasets.sources.scan import survey


@pytest.fixture
def feed(tmp_path) -> Feed:
    """Files, archives between them, a copy of an archive, and an archive at the end."""
    folder = tmp_path / "dump"
    for number, name in enumerate(("a", "c", "e", "f", "g", "h")):
        (folder / name).mkdir(parents=True)
        (folder / name / "game.slp").write_bytes(bytes([number]) * 100)
    members = {f"{number}.slp": bytes([number]) * 50 for number in range(7)}
    write_archive(folder / "b.tar.gz", members)
    write_archive(folder / "d.tar.gz", members | {"8.slp": b"8"})
    (folder / "z").mkdir()
    shutil.copy2(folder / "d.tar.gz", folder / "z" / "d.tar.gz")
    return feed_of(folder)


def feed_of(*sources: Path) -> Feed:
    locations = tuple(map(str, sources))
    return Feed(
        sources=locations,
        done=np.zeros(0, np.uint64),
        chunk_inputs=3,
        out="",
        staging="",
        options=EncodeOptions(),
        archives=survey(locations).archives,
    )


def by_several_readers(feed: Feed) -> list[list[tuple[Position, Chunk]]]:
    """The chunks of each reader, in its order."""
    return [list(feed.scan_chunks()), *(list(feed.group_chunks(group)) for group in feed.archive_groups())]


def names(chunks: Iterator[Chunk]) -> list[list[str]]:
    return [[f"{replay.source}/{replay.name}" for replay in chunk.inputs] for chunk in chunks]


def test_results_come_in_the_order_of_the_sources_whatever_is_read_first(feed):
    expected = names(feed.chunks())
    rows = [row for reader in by_several_readers(feed) for row in reader]
    for seed in range(20):
        random.Random(seed).shuffle(rows)
        results = in_order((position, pickle.dumps(chunk)) for position, chunk in rows)
        assert names(map(pickle.loads, results)) == expected


def test_the_order_is_that_of_one_scan_over_all_sources(feed):
    inputs = [name for chunk in names(feed.chunks()) for name in chunk]
    assert inputs[:2] == ["dump/a/game.slp", "b.tar.gz/0.slp"]
    assert inputs[8:10] == ["dump/c/game.slp", "d.tar.gz/0.slp"]
    assert inputs[-1] == "dump/h/game.slp"


def test_a_copy_of_an_archive_adds_no_inputs(feed):
    assert [archive.name for archive in feed.archives] == ["b.tar.gz", "d.tar.gz", "d.tar.gz"]
    assert feed.archive_groups() == [(1,), (2, 3)]
    assert sum(name == "d.tar.gz/8.slp" for chunk in names(feed.chunks()) for name in chunk) == 1


def test_an_archive_deleted_after_the_survey_is_named(feed):
    for archive in feed.archives:
        Path(archive.location).unlink()
    codes = [replay.rejection for chunk in feed.chunks() for replay in chunk.inputs if replay.member == -1]
    assert len(codes) == 3


def test_an_archive_that_is_named_twice_is_read_once(feed):
    archive = Path(feed.archives[0].location)
    twice = feed_of(archive, archive)
    assert len(twice.archives) == 1
    assert names(twice.chunks()) == names(feed_of(archive).chunks())


def test_waiting_results_take_no_memory_but_an_index():
    """A slow first archive: 20,000 results of 10 kB of a later one wait for it."""
    content = b"x" * 10_000

    def rows() -> Iterator[tuple[Position, bytes]]:
        yield Position(stream=SCAN, number=0, then=(1, 2), is_last=True), b"scan"
        for number in range(20_000):
            yield Position(stream=2, number=number, is_last=number == 19_999), content
        yield Position(stream=1, number=0, is_last=True), b"slow"

    import tracemalloc

    tracemalloc.start()
    first = list(zip(range(2), in_order(rows()), strict=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [result for _, result in first] == [b"scan", b"slow"]
    assert peak < 20_000 * 600


def test_a_missing_result_is_an_error_rather_than_a_shorter_corpus():
    rows = [(Position(stream=SCAN, number=0, then=(1,), is_last=True), b"scan")]
    with pytest.raises(RuntimeError, match="stream 1 end before chunk 0"):
        list(in_order(iter(rows)))
