"""Brings the results of chunks, which finish in any order, back into the order of the sources."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from datasets.pipeline.feed import SCAN, Position


class PendingResults:
    """Results that wait for earlier ones: while a slow archive is read, those of all others may.

    They lie in a temporary file; in memory is an index of about 300 bytes a chunk.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._num_bytes = 0
        self._waiting: dict[tuple[int, int], tuple[Position, int, int]] = {}

    def add(self, position: Position, result: bytes) -> None:
        """Keep a result until `pop`."""
        self._file.seek(self._num_bytes)
        self._file.write(result)
        self._waiting[position.stream, position.number] = position, self._num_bytes, len(result)
        self._num_bytes += len(result)

    def pop(self, stream: int, number: int) -> tuple[Position, bytes] | None:
        """The result of a chunk, or None if it has not come yet."""
        if (found := self._waiting.pop((stream, number), None)) is None:
            return None
        position, offset, size = found
        self._file.seek(offset)
        result = self._file.read(size)
        if not self._waiting:
            self._file.truncate(0)
            self._num_bytes = 0
        return position, result

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


def in_order(results: Iterator[tuple[Position, bytes]]) -> Iterator[bytes]:
    """The results in the order of the sources: the scan's, with each archive's where the scan met the archive.

    Args:
        results: of all chunks, each once.
    """
    pending = PendingResults()
    streams = [SCAN]  # the last one is next; the others wait for its end
    numbers = {SCAN: 0}
    try:
        for position, result in results:
            pending.add(position, result)
            while streams and (found := pending.pop(streams[-1], numbers[streams[-1]])) is not None:
                at, content = found
                numbers[at.stream] += 1
                if at.is_last:
                    streams.pop()
                streams += reversed(at.then)
                numbers |= dict.fromkeys(at.then, 0)
                yield content
        if streams:
            raise RuntimeError(f"the results of stream {streams[-1]} end before chunk {numbers[streams[-1]]}")
    finally:
        pending.close()
