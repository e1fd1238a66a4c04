"""The process that reads 7z archives by py7zr (`sevenzip_process` has the protocol): it forks for each archive.

A fork starts with py7zr imported; its memory and its limits end with it.

py7zr's `extract` with a writer factory is not used: it refuses the whole archive for one unsafe name, ends a block at
the first CRC error, and merges members of the same name. Its directory and its decompressors are.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, BinaryIO

from py7zr.archiveinfo import Folder
from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

from datasets.runtime.errors import ReplayError
from datasets.runtime.process.limits import limit_cpu, limit_memory
from datasets.sources.archives.sevenzip_directory import SUPPORTED, Archive, Block, method_names
from datasets.sources.archives.sevenzip_process import CONTENT, SKIP, STALL_S
from datasets.sources.names import kind_of
from datasets.sources.read_errors import rejection_of
from datasets.sources.storage import open_file

MEMORY_BYTES = 1280 * 2**20
"""Private memory for one archive: a dictionary of 1 GB, four times that of 7-Zip's highest level, and a member."""
DIRECTORY_CPU_S = 5
"""CPU seconds to parse a directory, and one more for each MB of the archive: 172,000 members take 4 s."""
PIECE_CPU_S = 20
"""CPU seconds to decompress a piece; PPMd, the slowest method, takes 0.1 s."""
PIECE_BYTES = 1 << 20
ROWS_PER_MESSAGE = 1_000


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
        return "unopenable", f"compression method {' + '.join(method_names(folder))}; {SUPPORTED}"
    if isinstance(error, MemoryError):
        return "too_large", f"decompressing takes more than {MEMORY_BYTES >> 20} MB of memory"
    return rejection_of(error)


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
    if not any(states[row[0]] for row in rows):
        return
    reader = BlockReader(file, block)
    bytes_to_skip = 0  # decompressed only once a later member needs it
    for row in rows:
        number, _, _, name, num_bytes, _, crc = row
        if states[number] != SKIP:
            _send(connection, {"member": row})
        pieces: list[bytes] = []
        rejection = None
        if states[number] != CONTENT:
            bytes_to_skip += num_bytes
        else:
            # A replay is sent once it is complete, so that the next one is decompressed while the parent uses it.
            is_streamed = kind_of(name) == "meta"
            try:
                for _ in reader.pieces(bytes_to_skip, None):
                    pass
                bytes_to_skip = 0
                for piece in reader.pieces(num_bytes, crc):
                    if is_streamed:
                        _send_piece(connection, piece)
                    else:
                        pieces.append(piece)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                rejection = _rejection(error, block.folder)
            signal.alarm(0)
        if states[number] != SKIP:
            for piece in pieces:
                connection.send_bytes(piece)
            connection.send_bytes(b"")
            _send(connection, None if rejection is None else {"error": rejection})


def _send_piece(connection: Connection, piece: bytes) -> None:
    signal.alarm(0)  # the parent may take its time
    connection.send_bytes(piece)


def _send(connection: Connection, message: object) -> None:
    connection.send_bytes(json.dumps(message).encode())
