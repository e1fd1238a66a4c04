"""Reads 7z archives by py7zr: generators that run in a child process (`sevenzip_process`).

py7zr's `extract` with a writer factory is not used: it refuses the whole archive for one unsafe name, ends a block at
the first CRC error, and merges members of the same name. Its directory and its decompressors are.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

from datasets.legacy import meta_json
from datasets.runtime.errors import ReplayError
from datasets.runtime.process.limits import limit_cpu, limit_memory
from datasets.sources.archives.sevenzip_directory import SUPPORTED, Archive, Block, method_names
from datasets.sources.archives.sevenzip_process import CONTENT, NAME_ONLY, STALL_S, Row
from datasets.sources.names import kind_of
from datasets.sources.read_errors import rejection_of
from datasets.sources.storage import open_file

DIRECTORY_CPU_S = 5
"""CPU seconds to parse a directory, and one more for each MB of the archive: 172,000 members take 4 s."""
PIECE_CPU_S = 20
"""CPU seconds to decompress a piece; PPMd, the slowest method, takes 0.1 s."""
PIECE_BYTES = 1 << 20
BATCH_ROWS = 1_000


def list_members(location: str, memory_bytes: int) -> Iterator[Any]:
    """The bytes of each block's dictionary, then all members in batches.

    Args:
        memory_bytes: private memory that the process may take.
    """
    with _opened(location, memory_bytes) as (_, archive):
        yield [block.dictionary_bytes() for block in archive.blocks]
        rows = archive.rows()
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch


def extract(
    location: str, memory_bytes: int, first: int, step: int, states: bytes
) -> Iterator[tuple[Row, Any, tuple[str, str] | None]]:
    """The members of blocks first, first + step, ...: each with its content, or the rejection if it cannot be read.

    A `meta.json` comes in several items: each of its entries (`meta_json.rows`), then None with the rejection.

    Args:
        memory_bytes: private memory that the process may take.
        states: SKIP, NAME_ONLY or CONTENT, by the member's number.
    """
    with _opened(location, memory_bytes) as (file, archive):
        for index in range(first, len(archive.blocks), step):
            block = archive.blocks[index]
            reader: BlockReader | None = None
            bytes_to_skip = 0  # decompressed only once a later member needs it
            for row in block.rows(index):
                if states[row.number] == CONTENT:
                    reader = reader or BlockReader(file, block)
                    pieces = reader.pieces(bytes_to_skip, row)
                    bytes_to_skip = 0
                    yield from _meta_entries(row, pieces) if kind_of(row.name) == "meta" else _content(row, pieces)
                else:
                    bytes_to_skip += row.num_bytes
                    if states[row.number] == NAME_ONLY:
                        yield row, b"", None


def _content(row: Row, pieces: Iterator[bytes]) -> Iterator[tuple[Row, Any, tuple[str, str] | None]]:
    try:
        item = row, b"".join(pieces), None
    except Exception as error:
        item = row, b"", rejection_of(error)
    yield item


def _meta_entries(row: Row, pieces: Iterator[bytes]) -> Iterator[tuple[Row, Any, tuple[str, str] | None]]:
    rejection = None
    try:
        for entry in meta_json.rows(pieces):
            yield row, entry, None
    except Exception as error:
        rejection = rejection_of(error)
    try:
        for _ in pieces:  # to the checksum
            pass
    except Exception as error:
        rejection = rejection_of(error)
    yield row, None, rejection


@contextmanager
def _opened(location: str, memory_bytes: int) -> Iterator[tuple[BinaryIO, Archive]]:
    with open_file(location) as file:
        limit_memory(memory_bytes)
        _watch(DIRECTORY_CPU_S + (file.seek(0, os.SEEK_END) >> 20))
        file.seek(0)
        yield file, Archive(file)


class BlockReader:
    """Decompresses a block's members in order. An error ends the block: later members raise it again."""

    def __init__(self, file: BinaryIO, block: Block) -> None:
        self._file = file
        self._folder = block.folder
        self._error: ReplayError | None = None
        file.seek(block.start)
        try:
            self._decompressor = block.folder.get_decompressor(block.packed_bytes)
        except Exception as error:
            self._error = self._replay_error(error)

    def pieces(self, bytes_to_skip: int, row: Row) -> Iterator[bytes]:
        """The bytes of a member, by pieces.

        Args:
            bytes_to_skip: of the block, before the member.
        Raises:
            ReplayError: the block is damaged or of an unsupported method; or, code `wrong_size`, the CRC differs.
        """
        while bytes_to_skip:
            bytes_to_skip -= len(self._read(bytes_to_skip))
        found, num_left = 0, row.num_bytes
        while num_left:
            piece = self._read(num_left)
            found = zlib.crc32(piece, found)
            num_left -= len(piece)
            yield piece
        if row.crc is not None and found != row.crc:
            raise ReplayError("wrong_size", "CRC mismatch between the member and the archive's directory")

    def _read(self, size: int) -> bytes:
        if self._error is not None:
            raise self._error
        _watch(PIECE_CPU_S)
        try:
            while True:
                position = self._file.tell()
                piece = bytes(self._decompressor.decompress(self._file, min(size, PIECE_BYTES)))
                if piece:
                    return piece
                if self._file.tell() == position:
                    raise EOFError("the archive's compressed data ends too early")
        except Exception as error:
            self._error = self._replay_error(error)
            raise self._error from error

    def _replay_error(self, error: Exception) -> ReplayError:
        if isinstance(error, PasswordRequired):
            return ReplayError("encrypted", "the archive is encrypted")
        if isinstance(error, UnsupportedCompressionMethodError):
            methods = " + ".join(method_names(self._folder))
            return ReplayError("unopenable", f"compression method {methods}; {SUPPORTED}")
        if isinstance(error, MemoryError):
            return ReplayError("too_much_memory", "decompressing takes more memory than the reader may take")
        return ReplayError(*rejection_of(error))


def _watch(cpu_s: int) -> None:
    """Have the system end this process if it makes no progress: by the CPU time it takes, or by waiting."""
    limit_cpu(cpu_s)
    signal.alarm(STALL_S)
