"""Read-ahead for remote files that are read from start to end, such as tars and 7z archives."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

RANGE_BYTES = 4 * 2**20
NUM_RANGES = 4
"""Requests in flight at once: at 100 ms a request they allow 160 MB/s."""


class RangeFile(Protocol):
    """A file that is read by range, also by several threads at once."""

    num_bytes: int

    def read_at(self, offset: int, size: int, /) -> bytes:
        """A range, shorter where the file ends earlier."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class ReadAhead:
    """A file whose next ranges are fetched by threads once it is read sequentially. Not thread-safe itself.

    In memory: NUM_RANGES ranges of RANGE_BYTES.
    """

    def __init__(self, file: RangeFile) -> None:
        self.num_bytes = file.num_bytes
        self._file = file
        self._end = -1
        """Where the last read ended; a read from there is sequential."""
        self._ranges: deque[tuple[int, Future[bytes]]] = deque()
        self._pool = ThreadPoolExecutor(NUM_RANGES, thread_name_prefix="read-ahead")

    def read_at(self, offset: int, size: int, /) -> bytes:
        """At least one byte and at most `size`; none at the end of the file."""
        if offset != self._end:
            self._drop()
            content = self._file.read_at(offset, size)
        else:
            content = self._ahead(offset, size)
        self._end = offset + len(content)
        return content

    def close(self) -> None:
        """Close the file."""
        self._drop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._file.close()

    def _ahead(self, offset: int, size: int) -> bytes:
        start = self._ranges[-1][0] + RANGE_BYTES if self._ranges else offset
        while len(self._ranges) < NUM_RANGES and start < self.num_bytes:
            self._ranges.append((start, self._pool.submit(self._file.read_at, start, RANGE_BYTES)))
            start += RANGE_BYTES
        if not self._ranges:
            return b""
        start, future = self._ranges[0]
        content = future.result()
        piece = content[offset - start : offset - start + size]
        if offset + len(piece) >= start + len(content):
            self._ranges.popleft()
        return piece

    def _drop(self) -> None:
        for _, future in self._ranges:
            future.cancel()
        self._ranges.clear()
