"""The compressed blocks of a 7z archive: chains of methods, decoded by Python's own libraries.

Guarded by `benchmarks/archives.py`, which prints the distance to liblzma alone, and py7zr and libarchive beside it.
"""

from __future__ import annotations

import bz2
import lzma
from dataclasses import dataclass
from typing import Any, BinaryIO

from datasets.runtime.errors import ReplayError
from datasets.sources.decompress import Inflater, Pull, Readable, Section, ZstdFile, dictionary_size, lzma_filter

COPY, DELTA, LZMA, LZMA2, DEFLATE, BZIP2, ZSTD = "00", "03", "030101", "21", "040108", "040202", "04f71101"
AES = "06f10701"
X86 = ("04", "03030103")
"""Branch converter for x86, under its new and old number."""
METHOD_NAMES = {
    "030401": "PPMd", "0303011b": "BCJ2", "040109": "deflate64", "04f71104": "LZ4", "04f71102": "Brotli",
    "0a": "ARM64", "03030501": "ARM",
}  # fmt: skip
"""Methods that are refused, so that the message can name them."""


@dataclass(frozen=True, slots=True)
class Coder:
    """One method of a chain."""

    method: str
    """Id, hexadecimal (Methods.txt of the LZMA SDK)."""
    properties: bytes
    num_inputs: int
    num_outputs: int


@dataclass(kw_only=True, slots=True)
class Block:
    """What 7z calls a folder: members compressed as one stream."""

    coders: list[Coder]
    bound: dict[int, int]
    """Coder whose input it is -> coder whose output it is (all have one of each, or the block is refused)."""
    num_packed: int
    num_outputs: int
    start: int = 0
    """Byte of the archive at which it begins."""
    packed_bytes: int = 0
    num_bytes: int = 0
    """Uncompressed."""
    crc: int = -1

    def set_sizes(self, sizes: list[int]) -> None:
        """Take the sizes of all outputs; that of the whole block is of the output that goes into no other coder."""
        free = set(range(self.num_outputs)) - set(self.bound.values())
        self.num_bytes = sizes[min(free)] if free else 0

    def chain(self) -> list[Coder]:
        """The methods in the order in which they are to be undone: the first reads the archive.

        Raises:
            ReplayError: `encrypted`, or `unopenable`: a method that is not supported.
        """
        for coder in self.coders:
            if coder.method == AES:
                raise ReplayError("encrypted", "the archive is encrypted")
        for coder in self.coders:
            if coder.num_inputs != 1 or coder.num_outputs != 1 or coder.method in METHOD_NAMES:
                raise unsupported(coder.method)
        reads_from = dict(self.bound)
        index = min(set(range(len(self.coders))) - set(reads_from), default=0)
        fed = {source: reader for reader, source in reads_from.items()}
        order = [index]
        while index in fed and len(order) <= len(self.coders):
            index = fed[index]
            order.append(index)
        if sorted(order) != list(range(len(self.coders))):
            raise ReplayError("unopenable", "the archive's methods make no chain")
        return [self.coders[index] for index in order]


def unsupported(method: str) -> ReplayError:
    """The fault of a method that is not read."""
    name = METHOD_NAMES.get(method, method)
    return ReplayError(
        "unopenable", f"compression method {name}; expected LZMA, LZMA2, deflate, bzip2, zstd or none: repack it"
    )


def open_block(file: BinaryIO, block: Block) -> Readable:
    """A block as a stream of uncompressed bytes.

    Raises:
        ReplayError: `encrypted`, `too_large` (the dictionary), or `unopenable`: a method that is not supported.
    """
    file.seek(block.start)
    packed = Section(file, block.packed_bytes)
    chain = [coder for coder in block.chain() if coder.method != COPY]
    if not chain:
        return Section(packed, block.num_bytes)
    first = chain[0]
    if len(chain) == 1 and first.method == DEFLATE:
        return Pull(Inflater(is_gzip=False), packed)
    if len(chain) == 1 and first.method == BZIP2:
        return Pull(_ManyBzip2(), packed)
    if len(chain) == 1 and first.method == ZSTD:
        return ZstdFile(packed)
    return Pull(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters(block)), packed)


def lzma_filters(block: Block) -> list[dict[str, Any]]:
    """A block's methods as filters of `lzma`, in its order: that of compression.

    Raises:
        ReplayError: as `open_block`.
    """
    chain = [coder for coder in block.chain() if coder.method != COPY]
    filters: list[dict[str, Any]] = [_filter(coder, block.num_bytes) for coder in reversed(chain)]
    if filters[-1]["id"] == lzma.FILTER_LZMA1 and any(kind["id"] == lzma.FILTER_X86 for kind in filters):
        raise unsupported("LZMA with an x86 converter")  # liblzma keeps back the last bytes of that pair
    return filters


def dictionary_bytes(block: Block) -> int:
    """Memory that unpacking a block takes beside its members; 0 where it cannot be unpacked."""
    try:
        return max(kind.get("dict_size", 0) for kind in lzma_filters(block))
    except (ReplayError, IndexError):
        return 0


def _filter(coder: Coder, num_bytes: int) -> dict[str, Any]:
    """A method as a filter of `lzma`."""
    if coder.method == LZMA and len(coder.properties) == 5:
        return lzma_filter(coder.properties, num_bytes)
    if coder.method == LZMA2 and len(coder.properties) == 1:
        return {"id": lzma.FILTER_LZMA2, "dict_size": dictionary_size(_lzma2_dictionary(coder), num_bytes)}
    if coder.method in X86:
        return {"id": lzma.FILTER_X86}
    if coder.method == DELTA and len(coder.properties) == 1:
        return {"id": lzma.FILTER_DELTA, "dist": coder.properties[0] + 1}
    raise unsupported(coder.method)


def _lzma2_dictionary(coder: Coder) -> int:
    """Bytes, from the one byte of LZMA2's properties (xz-file-format.txt, 5.3.1)."""
    bits = coder.properties[0]
    return (1 << 32) - 1 if bits >= 40 else (2 | bits & 1) << (bits // 2 + 11)


class _ManyBzip2:
    """bzip2 as 7-Zip writes it with several threads: streams one after another."""

    def __init__(self) -> None:
        self._decompressor = bz2.BZ2Decompressor()
        self.eof = False

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing left to decompress."""
        return not self._decompressor.unused_data if self._decompressor.eof else self._decompressor.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes from what is there."""
        if self._decompressor.eof:
            data = self._decompressor.unused_data + data
            self._decompressor = bz2.BZ2Decompressor()
        return self._decompressor.decompress(data, max_length)
