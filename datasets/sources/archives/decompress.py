"""Decompression with a limit on the output, so that a decompression bomb costs no memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zlib
from typing import BinaryIO, cast

import pyarrow as pa

from datasets.legacy.meta_json import Readable
from datasets.runtime.errors import ReplayError
from datasets.sources.inputs import ZipMember

MAX_REPLAY_BYTES = 128 * 2**20
"""Largest uncompressed replay that is read; the longest legal game, eight minutes, takes about 20 MB."""
BLOCK_BYTES = 1 << 20

# Compression methods of a zip (APPNOTE.TXT, 4.4.5).
STORED, DEFLATE, BZIP2, LZMA, ZSTD, ZSTD_OLD = 0, 8, 12, 14, 93, 20
ZIP_METHODS = (STORED, DEFLATE, BZIP2, LZMA, ZSTD, ZSTD_OLD)


def open_gzip(file: Readable) -> BinaryIO:
    """A gzip file of one or more members; reading raises EOFError where it is cut off."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=cast("BinaryIO", file)))


def open_zstd(file: Readable) -> BinaryIO:
    """A zstd file of one or more frames."""
    stream = pa.CompressedInputStream(pa.PythonFile(_ArrowFile(file), mode="r"), "zstd")
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", stream), BLOCK_BYTES))


class _ArrowFile:
    """The interface that pyarrow expects of a Python file."""

    closed = False

    def __init__(self, file: Readable) -> None:
        self.read = file.read

    def close(self) -> None:
        """Nothing: the file belongs to the caller."""


def read_limited(file: Readable, limit: int) -> bytes:
    """At most `limit` bytes, by blocks: one large read would allocate the limit at once."""
    pieces: list[bytes] = []
    while limit > 0 and (piece := file.read(min(limit, BLOCK_BYTES))):
        pieces.append(piece)
        limit -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def zip_content(stored: bytes, member: ZipMember) -> bytes:
    """Content of a zip member, from its bytes as the archive stores them.

    Raises:
        ReplayError: code `wrong_size`; size or CRC differ from the directory.
        OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, struct.error: the stored bytes are damaged.
    """
    content = _decompress(stored, member.method, member.num_bytes + 1)
    if len(content) != member.num_bytes:
        found = f"more than {member.num_bytes}" if len(content) > member.num_bytes else str(len(content))
        raise ReplayError(
            "wrong_size", f"{found} bytes uncompressed, the archive's directory states {member.num_bytes}"
        )
    if zlib.crc32(content) != member.crc:
        raise ReplayError("wrong_size", "CRC mismatch between the member and the archive's directory")
    return content


def _decompress(stored: bytes, method: int, limit: int) -> bytes:
    """At most `limit` bytes (above 0)."""
    if method == STORED:
        return stored[:limit]
    if method == DEFLATE:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, limit)
    if method == BZIP2:
        return bz2.BZ2Decompressor().decompress(stored, limit)
    if method in (ZSTD, ZSTD_OLD):
        return read_limited(open_zstd(io.BytesIO(stored)), limit)
    assert method == LZMA
    _, properties_bytes = struct.unpack_from("<HH", stored)
    filters = [_lzma_filter(stored[4 : 4 + properties_bytes], limit)]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(stored[4 + properties_bytes :], limit)


def _lzma_filter(properties: bytes, num_bytes: int) -> dict[str, int]:
    """LZMA's five bytes of properties (lzma-specification.txt, "LZMA Properties") as a filter of `lzma`.

    Args:
        num_bytes: uncompressed; a larger dictionary is not needed.
    """
    packed, dictionary_bytes = struct.unpack("<BI", properties[:5])
    return {
        "id": lzma.FILTER_LZMA1,
        "lc": packed % 9,
        "lp": packed // 9 % 5,
        "pb": packed // 45,
        "dict_size": max(4096, min(dictionary_bytes, num_bytes)),
    }


def replay_content(content: bytes, name: str) -> bytes:
    """Uncompressed bytes of a replay.

    Args:
        content: bytes of the file.
        name: of the file; .gz is decompressed.
    Raises:
        ReplayError: code `too_large`.
        OSError, EOFError, zlib.error: the gzip is damaged.
    """
    if name.lower().endswith(".gz"):
        content = read_limited(open_gzip(io.BytesIO(content)), MAX_REPLAY_BYTES + 1)
    if len(content) > MAX_REPLAY_BYTES:
        raise ReplayError("too_large", f"more than {MAX_REPLAY_BYTES >> 20} MB uncompressed")
    return content


def too_large(num_bytes: int) -> tuple[str, str] | None:
    """The rejection of a file larger than any replay; None if it is not."""
    if num_bytes <= MAX_REPLAY_BYTES:
        return None
    limit = MAX_REPLAY_BYTES >> 20
    return "too_large", f"{num_bytes >> 20} MB uncompressed, expected at most {limit}: no replay is that long"
