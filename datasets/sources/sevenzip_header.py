"""Reads the directory of a 7z archive (7zFormat.txt of the LZMA SDK), and trusts nothing that it says."""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

from datasets.runtime.errors import ReplayError
from datasets.sources.sevenzip_blocks import Block, Coder, open_block
from datasets.sources.sevenzip_directory import Directory, Streams, damaged

SIGNATURE = b"7z\xbc\xaf\x27\x1c"
SIGNATURE_HEADER = struct.Struct("<6s2BL2QL")
MAX_HEADER_BYTES = 1 << 29
"""Largest directory that is read; one of a million members takes a third."""

(END, HEADER, _, ADDITIONAL_STREAMS, MAIN_STREAMS, FILES, PACK_INFO, UNPACK_INFO, SUBSTREAMS, SIZE, CRC, FOLDER,
 UNPACK_SIZES, NUM_UNPACK_STREAMS, EMPTY_STREAM, EMPTY_FILE, _, NAMES) = range(18)  # fmt: skip
ENCODED_HEADER = 23
ARCHIVE_PROPERTIES = 2


def read_directory(file: BinaryIO, archive_bytes: int) -> Directory:
    """Read the directory at the archive's end.

    Raises:
        ReplayError: code `encrypted`, or `unopenable`: it is no 7z, cut off, or damaged.
    """
    head = file.read(SIGNATURE_HEADER.size)
    if len(head) < SIGNATURE_HEADER.size or not head.startswith(SIGNATURE):
        raise ReplayError("unopenable", "the archive does not begin as a 7z does")
    _, _, _, start_crc, offset, size, crc = SIGNATURE_HEADER.unpack(head)
    if zlib.crc32(head[12:]) != start_crc:
        raise damaged("the CRC of its place is wrong")
    if SIGNATURE_HEADER.size + offset + size > archive_bytes:
        raise ReplayError("unopenable", "the archive is cut off: its directory is missing")
    content = _read_header(file, SIGNATURE_HEADER.size + offset, size)
    if zlib.crc32(content) != crc:
        raise damaged("its CRC is wrong")
    while content and content[0] == ENCODED_HEADER:
        streams = _Cursor(content, 1).streams()
        if len(streams.blocks) != 1:
            raise damaged("it lies in several blocks")
        content = _unpack_header(file, streams.blocks[0])
    directory = _Cursor(content, 0).directory() if content else Directory()
    directory.locate()
    return directory


def _read_header(file: BinaryIO, start: int, size: int) -> bytes:
    if size > MAX_HEADER_BYTES:
        raise damaged(f"{size} bytes, expected at most {MAX_HEADER_BYTES}")
    file.seek(start)
    return file.read(size)


def _unpack_header(file: BinaryIO, block: Block) -> bytes:
    if block.num_bytes > MAX_HEADER_BYTES:
        raise damaged(f"{block.num_bytes} bytes, expected at most {MAX_HEADER_BYTES}")
    content = open_block(file, block).read(block.num_bytes)
    if len(content) != block.num_bytes or (block.crc >= 0 and zlib.crc32(content) != block.crc):
        raise damaged("its CRC is wrong")
    return content


@lru_cache(maxsize=64)
def _coder(method: str, properties: bytes, num_inputs: int, num_outputs: int) -> Coder:
    """One object for all blocks that are compressed alike: an archive that is not solid has a block a member."""
    return Coder(method, properties, num_inputs, num_outputs)


class _Cursor:
    """Reads a directory from its first byte to its last."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self._position = position

    def byte(self) -> int:
        if self._position >= len(self._content):
            raise damaged("it ends too early")
        self._position += 1
        return self._content[self._position - 1]

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._content) - self._position:
            raise damaged("it ends too early")
        self._position += size
        return self._content[self._position - size : self._position]

    def number(self) -> int:
        """The leading ones of the first byte count the bytes that follow; its other bits are the highest."""
        first = self.byte()
        value, mask = 0, 0x80
        for shift in range(0, 64, 8):
            if not first & mask:
                return value | (first & (mask - 1)) << shift
            value |= self.byte() << shift
            mask >>= 1
        return value

    def count(self) -> int:
        """A number of things of which each takes a byte or more."""
        value = self.number()
        if value > len(self._content):
            raise damaged(f"{value} things in {len(self._content)} bytes")
        return value

    def bits(self, num_bits: int) -> bytes:
        """A byte of 0 or 1 for each bit, the highest of a byte first."""
        content = self.take(-(-num_bits // 8))
        return bytes(content[index >> 3] >> (7 - (index & 7)) & 1 for index in range(num_bits))

    def digests(self, number: int) -> Iterator[int]:
        """CRCs, -1 where there is none."""
        is_known = b"\1" * number if self.byte() else self.bits(number)
        for known in is_known:
            yield struct.unpack("<L", self.take(4))[0] if known else -1

    def expect(self, wanted: int) -> None:
        found = self.byte()
        if found != wanted:
            raise damaged(f"part {found}, expected {wanted}")

    def directory(self) -> Directory:
        self.expect(HEADER)
        found = Directory()
        while (part := self.byte()) != END:
            if part == ARCHIVE_PROPERTIES:
                while self.byte() != END:
                    self.take(self.number())
            elif part == ADDITIONAL_STREAMS:
                self.streams()
            elif part == MAIN_STREAMS:
                found.streams = self.streams()
            elif part == FILES:
                self._files(found)
            else:
                raise damaged(f"part {part} is unknown")
        return found

    def _files(self, found: Directory) -> None:
        found.num_files = self.count()
        found.is_empty_stream = bytes(found.num_files)
        while (part := self.byte()) != END:
            end = self.number() + self._position
            if part == EMPTY_STREAM:
                found.is_empty_stream = self.bits(found.num_files)
            elif part == EMPTY_FILE:
                found.is_empty_file = self.bits(sum(found.is_empty_stream))
            elif part == NAMES:
                if self.byte():
                    raise damaged("names lie elsewhere")
                found.names = self.take(end - self._position)
            self._position = end
        num_empty = sum(found.is_empty_stream)
        found.is_empty_file = found.is_empty_file or bytes(num_empty)

    def streams(self) -> Streams:
        found = Streams()
        offset, packed_sizes = 0, array("Q")
        has_substreams = False
        while (part := self.byte()) != END:
            if part == PACK_INFO:
                offset, packed_sizes = self._pack_info()
            elif part == UNPACK_INFO:
                self._unpack_info(found, offset, packed_sizes)
            elif part == SUBSTREAMS:
                self._substreams(found)
                has_substreams = True
            else:
                raise damaged(f"part {part} is unknown")
        if not has_substreams:
            found.members_of_block = array("Q", [1]) * len(found.blocks)
            found.sizes = array("Q", (block.num_bytes for block in found.blocks))
            found.crcs = array("q", (block.crc for block in found.blocks))
        return found

    def _pack_info(self) -> tuple[int, array]:
        offset, number = self.number(), self.count()
        sizes = array("Q", bytes(8)) * number
        while (part := self.byte()) != END:
            if part == SIZE:
                sizes = array("Q", (self.number() for _ in range(number)))
            elif part == CRC:
                for _ in self.digests(number):
                    pass
            else:
                raise damaged(f"part {part} is unknown")
        return offset, sizes

    def _unpack_info(self, found: Streams, offset: int, packed_sizes: array) -> None:
        self.expect(FOLDER)
        number = self.count()
        if self.byte():
            raise damaged("blocks are described elsewhere")
        next_packed = 0
        start = SIGNATURE_HEADER.size + offset
        for _ in range(number):
            block = self._block()
            packed = packed_sizes[next_packed : next_packed + block.num_packed]
            if len(packed) != block.num_packed:
                raise damaged("it has fewer streams than blocks")
            block.start, block.packed_bytes = start, sum(packed)
            next_packed, start = next_packed + len(packed), start + block.packed_bytes
            found.blocks.append(block)
        self.expect(UNPACK_SIZES)
        for block in found.blocks:
            block.set_sizes([self.number() for _ in range(block.num_outputs)])
        while (part := self.byte()) != END:
            if part != CRC:
                raise damaged(f"part {part} is unknown")
            for block, crc in zip(found.blocks, self.digests(number), strict=True):
                block.crc = crc

    def _block(self) -> Block:
        coders = []
        for _ in range(self.count()):
            flags = self.byte()
            method = self.take(flags & 0xF).hex()
            inputs, outputs = (self.count(), self.count()) if flags & 0x10 else (1, 1)
            properties = self.take(self.number()) if flags & 0x20 else b""
            coders.append(_coder(method, properties, inputs, outputs))
        num_inputs = sum(coder.num_inputs for coder in coders)
        num_outputs = sum(coder.num_outputs for coder in coders)
        if not coders or not 0 < num_outputs <= num_inputs + 1:
            raise damaged("a block without a method")
        bound = {self.number(): self.number() for _ in range(num_outputs - 1)}
        num_packed = num_inputs - len(bound)
        if num_packed > 1:
            for _ in range(num_packed):
                self.number()
        return Block(coders=coders, bound=bound, num_packed=num_packed, num_outputs=num_outputs)

    def _substreams(self, found: Streams) -> None:
        found.members_of_block = array("Q", [1]) * len(found.blocks)
        part = self.byte()
        if part == NUM_UNPACK_STREAMS:
            found.members_of_block = array("Q", (self.count() for _ in found.blocks))
            part = self.byte()
        has_sizes = part == SIZE
        for block, number in zip(found.blocks, found.members_of_block, strict=True):
            left = block.num_bytes
            for _ in range(number - 1):
                size = self.number() if has_sizes else 0
                found.sizes.append(size)
                left -= size
            if number:
                if left < 0:
                    raise damaged("members are larger than their block")
                found.sizes.append(left)
        if has_sizes:
            part = self.byte()
        self._substream_crcs(found, part)

    def _substream_crcs(self, found: Streams, part: int) -> None:
        """CRCs are told for members whose block does not already tell it."""
        single = [
            number == 1 and block.crc >= 0 for block, number in zip(found.blocks, found.members_of_block, strict=True)
        ]
        told = iter(())
        if part == CRC:
            unknown = zip(found.members_of_block, single, strict=True)
            told = self.digests(sum(number for number, is_known in unknown if not is_known))
        for block, number, is_known in zip(found.blocks, found.members_of_block, single, strict=True):
            found.crcs.extend([block.crc] if is_known else (next(told, -1) for _ in range(number)))
        while part != END:
            part = self.byte() if part == CRC else END
