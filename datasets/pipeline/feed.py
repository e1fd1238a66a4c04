"""The inputs of a run, cut into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.corpus.chunk import EncodeOptions
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.scan import Inputs

MAX_CONTENT_BYTES = 32 * 2**20
"""Limit of the contents in a chunk, which bounds the object store. Only inputs of archives that must be read from the
start carry their content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A unit of work: inputs that become one shard."""

    inputs: tuple[ReplayInput, ...]
    skipped: SkipStats
    """What the scan skipped on its way to the last input."""
    staging: str
    """Folder for uncommitted files."""
    options: EncodeOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """The chunks of one run, in order. Picklable, so that another process can scan the sources."""

    sources: tuple[str, ...]
    done: np.ndarray
    """uint64, sorted: first eight bytes of the keys that the corpus has."""
    chunk_inputs: int
    staging: str
    options: EncodeOptions

    def chunks(self) -> Iterator[Chunk]:
        """Scan the sources one after another, lazily. The last chunk may be empty."""
        inputs = Inputs(self.sources, self._is_done)
        batch: list[ReplayInput] = []
        content_bytes = 0
        for replay in inputs:
            batch.append(replay)
            content_bytes += len(replay.content or b"")
            if len(batch) == self.chunk_inputs or content_bytes >= MAX_CONTENT_BYTES:
                yield self._chunk(batch, inputs.drain_skipped())
                batch, content_bytes = [], 0
        yield self._chunk(batch, inputs.drain_skipped())

    def _chunk(self, batch: list[ReplayInput], skipped: SkipStats) -> Chunk:
        return Chunk(inputs=tuple(batch), skipped=skipped, staging=self.staging, options=self.options)

    def _is_done(self, key: str) -> bool:
        value = np.uint64(int(key[:16], 16))
        index = np.searchsorted(self.done, value)
        return bool(index < len(self.done) and self.done[index] == value)


def inputs_per_chunk(num_inputs: int) -> int:
    """Inputs in a chunk: enough chunks to keep many cores busy, few enough shards for shared storage."""
    return min(64, max(4, num_inputs // 16))
