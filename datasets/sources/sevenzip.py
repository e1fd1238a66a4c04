"""7z archives: solid ones are read from their start, so one reader carries the content to many parsers.

Not py7zr (slower, and ten packages) nor libarchive (as fast, but a system library): `benchmarks/archives.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from datasets.errors import ReplayError
from datasets.sources.faults import DAMAGE, refusal_of
from datasets.sources.inputs import ReplayInput
from datasets.sources.metadata import Metadata
from datasets.sources.names import META_NAME, key_of, parsed_root
from datasets.sources.sevenzip_blocks import Block, open_block
from datasets.sources.sevenzip_header import Directory, read_directory
from datasets.sources.storage import StoredFile, open_file
from datasets.sources.unpack import BLOCK_BYTES, Readable, Section
from datasets.sources.walk import Member, Walk, refused_whole


def list_7z(archive: StoredFile, walk: Walk) -> Iterator[ReplayInput]:
    """The members to take, in the archive's order, each with its content. One member is in memory, and the directory.

    A block all of whose members are done is not decompressed.
    """
    try:
        with open_file(archive.location) as file:
            yield from _Reader(archive, walk, file).inputs()
    except DAMAGE as error:
        yield from refused_whole(walk, archive, refusal_of(error))


class _Reader:
    """Goes through an archive once, or twice: first to see what is wanted, then to unpack that."""

    def __init__(self, archive: StoredFile, walk: Walk, file: BinaryIO) -> None:
        self._archive = archive
        self._walk = walk
        self._file = file
        self._directory: Directory = read_directory(file, archive.num_bytes)
        self._tables: dict[str, Metadata] = {}
        self._block = -1
        self._stream: _BlockStream | None = None

    def inputs(self) -> Iterator[ReplayInput]:
        """Those that are wanted; without content where the walk only counts."""
        is_wanted = bytearray(self._directory.num_files)
        wants_parsed = False
        for member, _, _ in self._members():
            if not member.is_candidate:
                self._walk.ignore(member.name)
                continue
            keys = member.key(self._archive), self._key_if_damaged(member)
            is_wanted[member.number] = self._walk.wants(*keys, num_bytes=member.stored_bytes)
            wants_parsed |= bool(is_wanted[member.number]) and member.kind == "parsed"
            if is_wanted[member.number] and not self._walk.reads_contents:
                yield member.input(self._archive)
        if not self._walk.reads_contents or not any(is_wanted):
            return
        for member, block, start in self._members():
            if is_wanted[member.number]:
                yield self._input(member, block, start)
            elif wants_parsed and member.kind == "meta":
                yield from self._read_meta(member, block, start)

    def _members(self) -> Iterator[tuple[Member, int, int]]:
        """Every file with its block (-1 where it has no bytes) and where it begins in that, uncompressed."""
        streams = self._directory.streams
        index = empty_index = block = start = 0
        num_left = streams.members_of_block[0] if streams.blocks else 0
        for number, name in enumerate(self._directory.iterate_names()):
            if self._directory.is_empty_stream[number]:
                if self._directory.is_empty_file[empty_index]:
                    yield self._member(number, name, 0, 0, None), -1, 0
                empty_index += 1
                continue
            while not num_left:
                block, start = block + 1, 0
                num_left = streams.members_of_block[block]
            num_bytes = streams.sizes[index]
            packed, unpacked = streams.blocks[block].packed_bytes, max(1, streams.blocks[block].num_bytes)
            stored = (start + num_bytes) * packed // unpacked - start * packed // unpacked
            yield self._member(number, name, num_bytes, stored, streams.crcs[index]), block, start
            index, start, num_left = index + 1, start + num_bytes, num_left - 1

    def _member(self, number: int, name: str, num_bytes: int, stored: int, crc: int | None) -> Member:
        checksum = (self._archive.num_bytes, self._archive.mtime_ns) if crc == -1 else crc
        return Member(number=number, name=name, num_bytes=num_bytes, stored_bytes=stored, checksum=checksum)

    def _key_if_damaged(self, member: Member) -> str:
        """Key of a member that cannot be read: in the repaired archive it is another input."""
        return key_of(member.key(self._archive), self._archive.num_bytes, self._archive.mtime_ns)

    def _input(self, member: Member, block: int, start: int) -> ReplayInput:
        replay = member.input(self._archive)
        if replay.refusal is not None:
            return replay
        if replay.kind == "parsed" and (table := self._tables.get(parsed_root(member.name))) is not None:
            replay = replace(replay, meta=table.get(replay.name))
        if block < 0:
            return replace(replay, content=b"")
        try:
            content = self._stream_of(block).section(start, member.num_bytes).read(member.num_bytes)
            if len(content) < member.num_bytes:
                raise ReplayError("unopenable", "the archive's compressed bytes end too early")
            if isinstance(member.checksum, int) and zlib.crc32(content) != member.checksum:
                raise ReplayError("wrong_size", "the CRC is not what the archive's directory says")
        except DAMAGE as error:
            return replace(replay, key=self._key_if_damaged(member), refusal=refusal_of(error))
        return replace(replay, content=content)

    def _read_meta(self, member: Member, block: int, start: int) -> Iterator[ReplayInput]:
        table = self._tables.setdefault(member.name[: -len(META_NAME)], Metadata())
        if block < 0:
            return
        try:
            table.read(self._stream_of(block).section(start, member.num_bytes))
        except DAMAGE as error:
            code, message = refusal_of(error)
            yield from refused_whole(self._walk, self._archive, (code, f"{META_NAME}: {message}"))

    def _stream_of(self, index: int) -> _BlockStream:
        if index != self._block or self._stream is None:
            self._block, self._stream = index, _BlockStream(self._file, self._directory.streams.blocks[index])
        return self._stream


class _BlockStream:
    """A block's members, in order; whatever stops it once stops all that follow."""

    def __init__(self, file: BinaryIO, block: Block) -> None:
        self._fault: Exception | None = None
        self._position = 0
        self._stream: Readable | None = None
        self._open = lambda: open_block(file, block)

    def section(self, start: int, num_bytes: int) -> Section:
        """A member as a file of its own; what lies before it is unpacked and dropped.

        Raises:
            ReplayError: the block cannot be read so far.
        """
        while self._position < start:
            if not self.read(min(BLOCK_BYTES, start - self._position)):
                raise ReplayError("unopenable", "the archive's compressed bytes end too early")
        return Section(self, num_bytes)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        if self._fault is not None:
            raise self._fault
        try:
            if self._stream is None:
                self._stream = self._open()
            content = self._stream.read(size)
        except DAMAGE as error:
            self._fault = error
            raise
        self._position += len(content)
        return content
