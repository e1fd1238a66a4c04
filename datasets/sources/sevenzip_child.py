"""The process that reads 7z archives by py7zr (`sevenzip_process` has the protocol): it forks for each archive.

A fork starts with py7zr imported; its memory and its limits end with it.

py7zr's `extract` with a writer factory is not used: it refuses the whole archive for one unsafe name, ends a block at
the first CRC error, and merges members of the same name. Its directory and its decompressors are.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import resource
import signal
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

import py7zr
from py7zr.archiveinfo import Folder
from py7zr.compressor import SupportedMethods, get_methods_names
from py7zr.exceptions import Bad7zFile, PasswordRequired, UnsupportedCompressionMethodError

from datasets.runtime.errors import ReplayError
from datasets.runtime.process_limits import limit_cpu, limit_memory
from datasets.sources.names import kind_of
from datasets.sources.read_errors import rejection_of
from datasets.sources.sevenzip_process import CONTENT, STALL_S
from datasets.sources.storage import open_file

MEMORY_BYTES = 1280 * 2**20
"""Private memory for one archive: a dictionary of 1 GB, four times that of 7-Zip's highest level, and a member."""
DIRECTORY_CPU_S = 5
"""CPU seconds to parse a directory, and one more for each MB of the archive: 172,000 members take 4 s."""
PIECE_CPU_S = 20
"""CPU seconds to decompress a piece; PPMd, the slowest method, takes 0.1 s."""
PIECE_BYTES = 1 << 20
ROWS_PER_MESSAGE = 1_000
LZMA_METHODS = (b"\x03\x01\x01", b"\x21")
"""LZMA and LZMA2."""
SUPPORTED = "expected LZMA, LZMA2, deflate, bzip2, zstd, PPMd, Brotli or none: repack it"


@dataclass(slots=True)
class Block:
    """What 7z calls a folder: members compressed as one stream."""

    folder: Folder
    start: int
    """Byte of the archive at which it begins."""
    packed_bytes: int
    num_bytes: int = 0
    """Uncompressed."""
    members: list[tuple[int, str, int, int | None]] = field(default_factory=list)
    """Number, name, bytes and CRC."""

    def rows(self, index: int) -> Iterator[list[Any]]:
        """`MEMBER_FIELDS` of its members; stored bytes are shared out in proportion to the uncompressed ones."""
        start, unpacked = 0, max(1, self.num_bytes)
        for position, (number, name, num_bytes, crc) in enumerate(self.members):
            end = start + num_bytes
            stored_bytes = end * self.packed_bytes // unpacked - start * self.packed_bytes // unpacked
            yield [number, index, position, name, num_bytes, stored_bytes, crc]
            start = end

    def dictionary_bytes(self) -> int:
        """Memory that decompressing takes beside the members, as far as it is known."""
        largest = 0
        for coder in self.folder.coders:
            if coder["method"] in LZMA_METHODS:
                with contextlib.suppress(Exception):  # hostile properties; decompressing will name them
                    filter_id = SupportedMethods.get_filter_id(coder)
                    properties = lzma._decode_filter_properties(filter_id, coder["properties"])  # type: ignore[attr-defined]
                    largest = max(largest, properties["dict_size"])
        return min(largest, self.num_bytes)


class Archive:
    """A 7z archive's directory.

    Raises:
        ReplayError: code `encrypted` or `unopenable`.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            archive = py7zr.SevenZipFile(file)
            self.empty_files = list(_empty_files(archive))
            self.blocks = _blocks(archive)
        except PasswordRequired as error:
            raise ReplayError("encrypted", "the archive is encrypted") from error
        except UnsupportedCompressionMethodError as error:
            raise ReplayError(
                "unopenable", f"unsupported compression of the archive's directory; {SUPPORTED}"
            ) from error
        except (ReplayError, MemoryError):
            raise
        except OSError as error:
            raise ReplayError(*rejection_of(error)) from error
        except Exception as error:
            text = str(error) if isinstance(error, Bad7zFile) else type(error).__name__
            raise ReplayError("unopenable", f"the archive is cut off or damaged, or no 7z: {text[:100]}") from error

    def rows(self) -> Iterator[list[Any]]:
        """`MEMBER_FIELDS` of all files: first the empty ones, then those of each block."""
        for number, name in self.empty_files:
            yield [number, -1, -1, name, 0, 0, 0]
        for index, block in enumerate(self.blocks):
            yield from block.rows(index)


def _empty_files(archive: py7zr.SevenZipFile) -> Iterator[tuple[int, str]]:
    """Number and name of files without bytes that are no folders."""
    if archive.header.files_info is None:
        return
    is_file = iter(archive.header.files_info.emptyfiles)
    for member in archive.files:
        if member.emptystream and next(is_file, False):
            yield member.id, member.filename


def _blocks(archive: py7zr.SevenZipFile) -> list[Block]:
    streams = archive.header.main_streams
    if streams is None:
        if not all(member.emptystream for member in archive.files):
            raise Bad7zFile("members without streams")
        return []
    packed, unpacked, members = streams.packinfo, streams.unpackinfo, streams.substreamsinfo
    if packed is None or unpacked is None or members is None:
        raise Bad7zFile("the directory is incomplete")
    blocks: dict[int, Block] = {}
    sizes = iter(packed.packsizes)
    start = archive.afterheader + packed.packpos
    for folder in unpacked.folders:
        packed_bytes = sum(next(sizes) for _ in folder.packed_indices)
        blocks[id(folder)] = Block(folder, start, packed_bytes)
        start += packed_bytes
    for member in archive.files:
        if not member.emptystream:
            if member.uncompressed < 0:
                raise Bad7zFile("a member's size is negative")
            block = blocks[id(member.folder)]
            block.members.append((member.id, member.filename, member.uncompressed, member.crc32))
            block.num_bytes += member.uncompressed
    found = list(blocks.values())
    if [len(block.members) for block in found] != members.num_unpackstreams_folders:
        raise Bad7zFile("the numbers of members and streams differ")
    return found


class BlockReader:
    """Decompresses a block's members in order. An error ends the block: later members raise it again."""

    def __init__(self, file: BinaryIO, block: Block) -> None:
        self._file = file
        self._error: Exception | None = None
        file.seek(block.start)
        try:
            self._decompressor = block.folder.get_decompressor(block.packed_bytes)
        except Exception as error:
            self._error = error

    def pieces(self, num_bytes: int, crc: int | None) -> Iterator[bytes]:
        """The next bytes of the block, a member's, by pieces.

        Raises:
            ReplayError: code `wrong_size`; the CRC differs.
            Exception: what py7zr raises on damage and unsupported methods.
        """
        found = 0
        while num_bytes:
            piece = self._read(min(num_bytes, PIECE_BYTES))
            found = zlib.crc32(piece, found)
            num_bytes -= len(piece)
            yield piece
        if crc is not None and found != crc:
            raise ReplayError("wrong_size", "CRC mismatch between the member and the archive's directory")

    def _read(self, size: int) -> bytes:
        if self._error is not None:
            raise self._error
        _watch()
        try:
            while True:
                position = self._file.tell()
                piece = bytes(self._decompressor.decompress(self._file, size))
                if piece:
                    return piece
                if self._file.tell() == position:
                    raise EOFError("the archive's compressed data ends too early")
        except Exception as error:
            self._error = error
            raise


def _rejection(error: Exception, folder: Folder) -> tuple[str, str]:
    if isinstance(error, PasswordRequired):
        return "encrypted", "the archive is encrypted"
    if isinstance(error, UnsupportedCompressionMethodError):
        return "unopenable", f"compression method {' + '.join(_methods(folder))}; {SUPPORTED}"
    if isinstance(error, MemoryError):
        return "too_large", f"decompressing takes more than {MEMORY_BYTES >> 20} MB of memory"
    return rejection_of(error)


def _methods(folder: Folder) -> list[str]:
    """Names of a block's methods, or their ids."""
    names: list[str] = []
    with contextlib.suppress(Exception):
        names = [name for name in get_methods_names([folder.coders]) if name]
    return names or [coder["method"].hex() for coder in folder.coders]


def serve(connection_fd: int) -> None:
    """Answer requests until the parent closes the connection."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(connection_fd)
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        child = os.fork()
        if not child:
            _answer(connection, request)
            os._exit(0)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if exit_code < 0:  # end as the fork did: the parent sees the connection close, and the signal
            os.kill(os.getpid(), -exit_code)
        if exit_code:
            os._exit(exit_code)


def _answer(connection: Connection, request: dict[str, Any]) -> None:
    try:
        with open_file(request["location"]) as file:
            limit_memory(MEMORY_BYTES)
            _watch(DIRECTORY_CPU_S + (file.seek(0, os.SEEK_END) >> 20))
            file.seek(0)
            archive = Archive(file)
            signal.alarm(0)
            if request["is_listing"]:
                _send_rows(connection, archive)
            dictionary_bytes = max((block.dictionary_bytes() for block in archive.blocks), default=0)
            _send(connection, {"num_blocks": len(archive.blocks), "dictionary_bytes": dictionary_bytes})
            share = json.loads(connection.recv_bytes())
            if share is None:
                return
            states = connection.recv_bytes()
            for index in range(share["first"], len(archive.blocks), share["step"]):
                _extract(connection, file, archive.blocks[index], index, states)
            _send(connection, None)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent needs no more
        os._exit(0)
    except MemoryError:
        message = f"the archive's directory takes more than {MEMORY_BYTES >> 20} MB of memory"
        _send(connection, {"error": ("too_large", message)})
    except Exception as error:
        _send(connection, {"error": rejection_of(error)})


def _watch(cpu_s: int = PIECE_CPU_S) -> None:
    """Have the system end this process if it makes no progress: by the CPU time it takes, or by waiting."""
    limit_cpu(cpu_s)
    signal.alarm(STALL_S)


def _send_rows(connection: Connection, archive: Archive) -> None:
    rows: list[list[Any]] = []
    for row in archive.rows():
        rows.append(row)
        if len(rows) == ROWS_PER_MESSAGE:
            _send(connection, {"rows": rows})
            rows = []
    _send(connection, {"rows": rows})


def _extract(connection: Connection, file: BinaryIO, block: Block, index: int, states: bytes) -> None:
    rows = list(block.rows(index))
    while rows and not states[rows[-1][0]]:
        rows.pop()
    if not rows:
        return
    reader = BlockReader(file, block)
    for row in rows:
        number, _, _, name, num_bytes, _, crc = row
        state = states[number]
        if state:
            _send(connection, {"member": row})
        # A replay is sent once it is complete, so that the next one is decompressed while the parent uses it.
        is_streamed = kind_of(name) == "meta"
        pieces, rejection = [], None
        try:
            for piece in reader.pieces(num_bytes, crc):
                if state == CONTENT and is_streamed:
                    _send_piece(connection, piece)
                elif state == CONTENT:
                    pieces.append(piece)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:
            rejection = _rejection(error, block.folder)
        signal.alarm(0)
        if state:
            for piece in pieces:
                connection.send_bytes(piece)
            connection.send_bytes(b"")
            _send(connection, None if rejection is None else {"error": rejection})


def _send_piece(connection: Connection, piece: bytes) -> None:
    signal.alarm(0)  # the parent may take its time
    connection.send_bytes(piece)


def _send(connection: Connection, message: object) -> None:
    connection.send_bytes(json.dumps(message).encode())
