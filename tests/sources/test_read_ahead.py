"""Remote files that are read from start to end are fetched ahead; others are not."""

from __future__ import annotations

import io
import random
import threading

import pytest

from datasets.sources.read_ahead import NUM_RANGES, RANGE_BYTES, ReadAhead

CONTENT = random.Random(1).randbytes(3 * NUM_RANGES * RANGE_BYTES // 2 + 17)


class Store:
    """A remote file; from its second request on it answers none before NUM_RANGES of them wait."""

    def __init__(self, content: bytes, waits: bool = True) -> None:
        self.num_bytes = len(content)
        self.requests: list[tuple[int, int]] = []
        self._content, self._waits = content, waits
        self._all_waiting = threading.Barrier(NUM_RANGES)

    def read_at(self, offset: int, size: int, /) -> bytes:
        self.requests.append((offset, size))
        if self._waits and 1 < len(self.requests) <= NUM_RANGES + 1:
            self._all_waiting.wait(30)
        return self._content[offset : offset + size]

    def close(self) -> None:
        pass


def test_a_file_read_sequentially_is_fetched_by_several_requests_at_once():
    store = Store(CONTENT)
    file, position, read = ReadAhead(store), 0, io.BytesIO()
    while content := file.read_at(position, 1 << 20):
        read.write(content)
        position += len(content)
    file.close()
    assert read.getvalue() == CONTENT
    assert len(store.requests) <= 2 + len(CONTENT) // RANGE_BYTES


def test_scattered_reads_fetch_only_what_is_asked_for():
    store = Store(CONTENT, waits=False)
    file = ReadAhead(store)
    wanted = [(900, 10), (5, 20), (len(CONTENT) - 7, 100), (0, 3)]
    assert [file.read_at(*one) for one in wanted] == [CONTENT[start : start + size] for start, size in wanted]
    file.close()
    assert store.requests == wanted


def test_an_error_of_a_range_reaches_the_reader_of_that_range():
    class Broken(Store):
        def read_at(self, offset: int, size: int, /) -> bytes:
            if offset > RANGE_BYTES:
                raise OSError(5, "Input/output error")
            return super().read_at(offset, size)

    file = ReadAhead(Broken(CONTENT, waits=False))
    position = len(file.read_at(0, 1000))
    with pytest.raises(OSError, match="Input/output"):
        while content := file.read_at(position, 1 << 20):
            position += len(content)
    assert position > RANGE_BYTES
    file.close()
