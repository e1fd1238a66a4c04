"""The inputs of a run, cut into chunks: by one scan of the sources, and beside it by a reader for each archive that can
only be read from its start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.known_ids import NO_IDS
from datasets.runtime.stored_file import StoredFile
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.scan import ArchiveInputs, Inputs
from datasets.sources.scan_state import MAX_DICTIONARY_BYTES

MAX_CONTENT_BYTES = 32 * 2**20
"""Limit of the contents in a chunk, which bounds the object store. Only inputs of archives that must be read from the
start carry their content."""
MIN_CHUNK_INPUTS = 16
MAX_CHUNK_INPUTS = 64
SCAN = 0
"""The stream of the scan; stream n + 1 is that of archive n."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A unit of work: inputs that become one shard."""

    inputs: tuple[ReplayInput, ...]
    skipped: SkipStats
    """What the scan skipped on its way to the last input."""
    staging: str
    """Folder for files that the worker is writing."""
    options: EncodeOptions
    known_games: np.ndarray = field(default_factory=lambda: NO_IDS, compare=False)
    """`Feed.known_games`, for the process that encodes the chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The place of a chunk in the order of the sources, which does not depend on what is read first."""

    stream: int
    number: int
    """In its stream, from 0."""
    then: tuple[int, ...] = ()
    """Streams that come after this chunk, before the next one of its own stream."""
    is_last: bool = False
    """Whether its stream ends with it."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The chunks of one run. Picklable, so that other processes can read the sources."""

    sources: tuple[str, ...]
    done: np.ndarray
    """uint64, sorted: first eight bytes of the keys that the corpus has."""
    chunk_inputs: int
    out: str
    """Path or URI of the corpus."""
    staging: str
    """Folder on each worker's disk, or in the corpus's folder, for files that workers are writing."""
    options: EncodeOptions
    archives: tuple[StoredFile, ...] = ()
    """Archives that are read beside the scan, in its order."""
    ranged_sources: tuple[str, ...] = ()
    """Sources whose inputs are read by path or byte range, where they are encoded."""
    dictionary_bytes: int = MAX_DICTIONARY_BYTES
    """Largest dictionary of a 7z that is read."""
    known_games: np.ndarray = field(default_factory=lambda: NO_IDS, compare=False)
    """Games that the corpus has, which are not parsed again (`datasets.pipeline.known_ids`)."""

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order, read one after another."""
        inputs_of = {}
        for group in self.archive_groups():
            inputs_of |= dict.fromkeys(group, self._archive_inputs())
        for position, chunk in self.scan_chunks():
            yield chunk
            for stream in position.then:
                for _, archive_chunk in self._archive_chunks(stream, inputs_of[stream]):
                    yield archive_chunk

    def archive_groups(self) -> list[tuple[int, ...]]:
        """Streams of archives, in groups that one reader reads, since they may hold the same inputs: copies."""
        groups: dict[tuple[str, int], list[int]] = {}
        for stream, archive in enumerate(self.archives, SCAN + 1):
            groups.setdefault((archive.name, archive.num_bytes), []).append(stream)
        return [tuple(group) for group in groups.values()]

    def scan_chunks(self) -> Iterator[tuple[Position, Chunk]]:
        """Scan the sources one after another, lazily, without the archives. The last chunk may be empty."""
        stream_of = {archive.identity: stream for stream, archive in enumerate(self.archives, SCAN + 1)}
        inputs = Inputs(self.sources, self._is_done, self.dictionary_bytes)
        batch = _Batch(self, SCAN)
        for item in inputs.without(frozenset(stream_of)):
            if isinstance(item, StoredFile):
                if stream := stream_of.pop(item.identity, None):
                    batch.then.append(stream)
                continue
            if batch.then or batch.is_full:
                yield batch.take(inputs.drain_skipped())
            batch.add(item)
        batch.then += stream_of.values()  # deleted since the survey, which their readers report
        yield batch.take(inputs.drain_skipped(), is_last=True)

    def group_chunks(self, group: tuple[int, ...]) -> Iterator[tuple[Position, Chunk]]:
        """Read the archives of a group one after another. The last chunk of each may be empty."""
        inputs = self._archive_inputs()
        for stream in group:
            yield from self._archive_chunks(stream, inputs)

    def _archive_inputs(self) -> ArchiveInputs:
        return ArchiveInputs(self._is_done, self.dictionary_bytes)

    def _archive_chunks(self, stream: int, inputs: ArchiveInputs) -> Iterator[tuple[Position, Chunk]]:
        batch = _Batch(self, stream)
        for replay in inputs.of(self.archives[stream - SCAN - 1]):
            if batch.is_full:
                yield batch.take(inputs.drain_skipped())
            batch.add(replay)
        yield batch.take(inputs.drain_skipped(), is_last=True)

    def _is_done(self, key: str) -> bool:
        value = np.uint64(int(key[:16], 16))
        index = np.searchsorted(self.done, value)
        return bool(index < len(self.done) and self.done[index] == value)


class _Batch:
    """The inputs of the next chunk of a stream."""

    def __init__(self, feed: Feed, stream: int) -> None:
        self.then: list[int] = []
        """Streams that come after this chunk."""
        self._feed = feed
        self._stream = stream
        self._number = 0
        self._inputs: list[ReplayInput] = []
        self._content_bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self._inputs) >= self._feed.chunk_inputs or self._content_bytes >= MAX_CONTENT_BYTES

    def add(self, replay: ReplayInput) -> None:
        self._inputs.append(replay)
        self._content_bytes += len(replay.content or b"")

    def take(self, skipped: SkipStats, *, is_last: bool = False) -> tuple[Position, Chunk]:
        """The chunk of these inputs; the next one begins without any."""
        position = Position(stream=self._stream, number=self._number, then=tuple(self.then), is_last=is_last)
        chunk = Chunk(
            inputs=tuple(self._inputs), skipped=skipped, staging=self._feed.staging, options=self._feed.options
        )
        self._number += 1
        self._inputs, self._content_bytes, self.then = [], 0, []
        return position, chunk


def inputs_per_chunk(num_inputs: int) -> int:
    """Inputs in a chunk: enough chunks to keep many cores busy, few enough shards for shared storage.

    At least MIN_CHUNK_INPUTS, about 2 MB of shard and 0.4 s of work: a shard so small that it is merged is written
    twice, which adds a third to the time of its games.
    """
    return min(MAX_CHUNK_INPUTS, max(MIN_CHUNK_INPUTS, num_inputs // 16))
