"""Decompression with a limit: pulls from a file, and gives no more bytes than were asked for."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from datasets.runtime.errors import ReplayError
from datasets.sources.inputs import ZipMember

MAX_REPLAY_BYTES = 128 * 2**20
"""Largest uncompressed replay that is read; the longest legal game, eight minutes, takes about 20 MB."""
MAX_DICTIONARY_BYTES = 1 << 30
"""Largest LZMA dictionary that is allocated: what 7-Zip's highest level takes is a quarter of it."""
BLOCK_BYTES = 1 << 20

# Compression methods of a zip (APPNOTE.TXT, 4.4.5).
STORED, DEFLATE, BZIP2, LZMA, ZSTD, ZSTD_OLD = 0, 8, 12, 14, 93, 20
ZIP_METHOD_NAMES = {
    1: "shrink", 6: "implode", 9: "deflate64", 10: "PKWARE implode", 18: "terse", 19: "LZ77", 94: "MP3", 95: "xz",
    96: "JPEG", 97: "WavPack", 98: "PPMd", 99: "AES",
}  # fmt: skip
"""Methods that are refused, so that the message can name them."""
ZIP_METHODS = (STORED, DEFLATE, BZIP2, LZMA, ZSTD, ZSTD_OLD)


class Readable(Protocol):
    """A source of bytes, read from its start."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        ...


class Section:
    """The next bytes of a file, as a file that ends after them."""

    def __init__(self, file: Readable, num_bytes: int) -> None:
        self._file = file
        self._num_left = num_bytes

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        content = self._file.read(min(size, self._num_left))
        self._num_left -= len(content)
        return content


class Inflater:
    """zlib's decompressor with the interface of those of lzma and bz2: for raw deflate, or gzip of many members."""

    def __init__(self, *, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._pending = b""
        self._begin()

    def _begin(self) -> None:
        self._decompressor = zlib.decompressobj(zlib.MAX_WBITS + 16 if self._is_gzip else -zlib.MAX_WBITS)
        self.is_whole = False
        """Whether what was read so far ends where a member ends."""

    @property
    def eof(self) -> bool:
        """Whether nothing can follow; after a member of gzip another one may."""
        return self._decompressor.eof and not self._is_gzip

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing left to decompress."""
        return not self._pending

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes from what is there."""
        data = self._pending + data
        if self.is_whole:
            data = data.lstrip(b"\0")  # tapes and tar pad with zeros
            if not data:
                self._pending = b""
                return b""
            self._begin()
        piece = self._decompressor.decompress(data, max_length)
        self.is_whole = self._decompressor.eof
        self._pending = self._decompressor.unused_data if self.is_whole else self._decompressor.unconsumed_tail
        return piece


class Pull:
    """Reads a compressed file: `read(n)` decompresses n bytes and no more."""

    def __init__(self, decompressor: Any, file: Readable) -> None:
        self._decompressor = decompressor
        self._file = file

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end, also where the compressed bytes are cut off."""
        pieces: list[bytes] = []
        while size > 0 and not self._decompressor.eof:
            data = self._file.read(BLOCK_BYTES) if self._decompressor.needs_input else b""
            piece = self._decompressor.decompress(data, size)
            if not piece and not data and self._decompressor.needs_input:
                break
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class ZstdFile:
    """Reads a zstd file of one or more frames."""

    def __init__(self, file: Readable) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(_ArrowFile(file), mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        pieces: list[bytes] = []
        while size > 0 and (piece := self._stream.read(min(size, BLOCK_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


class _ArrowFile:
    """What pyarrow asks of a Python file beside `read`."""

    closed = False

    def __init__(self, file: Readable) -> None:
        self.read = file.read

    def close(self) -> None:
        """The file is its owner's."""


def lzma_filter(properties: bytes, num_bytes: int) -> dict[str, int]:
    """LZMA's five bytes of properties (lzma-specification.txt, "LZMA Properties") as a filter of `lzma`.

    Args:
        num_bytes: uncompressed; no larger a dictionary is allocated than can be used.
    """
    packed, dictionary = struct.unpack("<BI", properties[:5])
    return {
        "id": lzma.FILTER_LZMA1,
        "lc": packed % 9,
        "lp": packed // 9 % 5,
        "pb": packed // 45,
        "dict_size": dictionary_size(dictionary, num_bytes),
    }


def dictionary_size(wanted: int, num_bytes: int) -> int:
    """Bytes to allocate for a dictionary.

    Raises:
        ReplayError: code `too_large`; more than MAX_DICTIONARY_BYTES.
    """
    size = max(4096, min(wanted, num_bytes))
    if size > MAX_DICTIONARY_BYTES:
        raise ReplayError("too_large", f"an LZMA dictionary of {size >> 20} MB, expected at most 1024")
    return size


def unpack_member(stored: bytes, byte_range: ZipMember) -> bytes:
    """A zip member's content, from its bytes as they lie in the archive.

    Raises:
        ReplayError: `wrong_size` where the content is not what the directory says; what a decoder raises on damage.
    """
    content = _open_method(io.BytesIO(stored), byte_range.method, byte_range.num_bytes).read(byte_range.num_bytes + 1)
    if len(content) != byte_range.num_bytes:
        found = f"more than {byte_range.num_bytes}" if len(content) > byte_range.num_bytes else str(len(content))
        raise ReplayError(
            "wrong_size", f"{found} bytes uncompressed, the archive's directory says {byte_range.num_bytes}"
        )
    if zlib.crc32(content) != byte_range.crc:
        raise ReplayError("wrong_size", "the CRC is not what the archive's directory says")
    return content


def unpacked_file(file: BinaryIO, byte_range: ZipMember) -> Readable:
    """A member of any size as a stream, of an archive that stands at its first stored byte; its CRC is not checked."""
    section = Section(file, byte_range.stored_bytes)
    return Section(_open_method(section, byte_range.method, byte_range.num_bytes), byte_range.num_bytes)


def _open_method(file: Readable, method: int, num_bytes: int) -> Readable:
    if method == STORED:
        return file
    if method == DEFLATE:
        return Pull(Inflater(is_gzip=False), file)
    if method == BZIP2:
        return Pull(bz2.BZ2Decompressor(), file)
    if method in (ZSTD, ZSTD_OLD):
        return ZstdFile(file)
    assert method == LZMA
    _, properties_bytes = struct.unpack("<HH", file.read(4))
    filters = [lzma_filter(file.read(properties_bytes), num_bytes)]
    return Pull(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), file)


def replay_content(content: bytes, name: str) -> bytes:
    """A replay's uncompressed bytes, from those of the file of that name (.slp or .slp.gz).

    Raises:
        ReplayError: code `too_large`; what gzip raises on damage.
    """
    if name.lower().endswith(".gz"):
        inflater = Inflater(is_gzip=True)
        content = Pull(inflater, io.BytesIO(content)).read(MAX_REPLAY_BYTES + 1)
        if len(content) <= MAX_REPLAY_BYTES and not inflater.is_whole:
            raise EOFError("the compressed bytes are cut off")
    if len(content) > MAX_REPLAY_BYTES:
        raise ReplayError("too_large", f"more than {MAX_REPLAY_BYTES >> 20} MB uncompressed")
    return content
