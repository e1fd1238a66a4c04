"""What the directory of a 7z archive tells: which members lie where in which compressed block.

Sizes, checksums and names stay in arrays: 172,000 members take some 30 MB and no Python objects.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from datasets.runtime.errors import ReplayError
from datasets.sources.sevenzip_blocks import Block


@dataclass(kw_only=True)
class Streams:
    """Compressed blocks and the members' bytes within them."""

    blocks: list[Block] = field(default_factory=list)
    members_of_block: array = field(default_factory=lambda: array("Q"))
    """Members with bytes in each block."""
    sizes: array = field(default_factory=lambda: array("Q"))
    """Bytes of each such member, uncompressed."""
    crcs: array = field(default_factory=lambda: array("q"))
    """Of each such member; -1 where the archive has none."""


@dataclass(kw_only=True)
class Directory:
    """What a 7z archive holds. Files are numbered in its order, streams are the files that have bytes."""

    streams: Streams = field(default_factory=Streams)
    num_files: int = 0
    names: bytes = b""
    """UTF-16, each ended by a zero."""
    is_empty_stream: bytes = b""
    """A byte for each file: 1 where it has no bytes."""
    is_empty_file: bytes = b""
    """A byte for each file without bytes: 1 where it is a file, 0 where it is a folder."""
    _name_starts: array = field(default_factory=lambda: array("Q"))
    _file_of_stream: array = field(default_factory=lambda: array("Q"))
    _first_stream: array = field(default_factory=lambda: array("Q"))

    def locate(self) -> None:
        """Find where each name begins, and which file each stream is.

        Raises:
            ReplayError: code `unopenable`; names or streams are missing.
        """
        start = 0
        for number in range(self.num_files):
            end = self.names.find(b"\0\0", start)
            while (end - start) % 2 and end >= 0:
                end = self.names.find(b"\0\0", end + 1)
            if end < 0:
                raise damaged("it has fewer names than members")
            self._name_starts.append(start)
            start = end + 2
            if not self.is_empty_stream[number]:
                self._file_of_stream.append(number)
        self._name_starts.append(start)
        self._first_stream = array("Q", accumulate(self.streams.members_of_block, initial=0))
        if len(self._file_of_stream) != len(self.streams.sizes):
            raise damaged("it has more members than streams, or fewer")

    def name(self, number: int) -> str:
        """Name of a file."""
        return self.names[self._name_starts[number] : self._name_starts[number + 1] - 2].decode("utf-16-le", "replace")

    def empty_files(self) -> Iterator[int]:
        """Numbers of the files without bytes that are no folders."""
        is_file = iter(self.is_empty_file)
        for number, is_empty in enumerate(self.is_empty_stream):
            if is_empty and next(is_file, 0):
                yield number

    def streams_of(self, block: int) -> Iterator[tuple[int, int, int]]:
        """The streams of a block: number of the stream, of its file, and where its bytes begin, uncompressed."""
        first, start = self._first_stream[block], 0
        for stream in range(first, first + self.streams.members_of_block[block]):
            yield stream, self._file_of_stream[stream], start
            start += self.streams.sizes[stream]


def damaged(what: str) -> ReplayError:
    """The fault of a directory that makes no sense."""
    return ReplayError("unopenable", f"the archive's directory is damaged: {what}")
