"""7z archives: a solid block is read from its start, so one reader carries the content to many parsers.

Blocks are independent of each other: several are unpacked at once, each by a thread of its own, and their members come
in turn, in an order that does not depend on how many threads run or on what is done already.

Not py7zr (slower on one block, and ten packages more) nor libarchive (as fast on one block, but a system's library, and
without threads): `benchmarks/archives.py` prints their speeds.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from datasets.legacy.meta_json import Metadata
from datasets.runtime.errors import ReplayError
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archive_members import Member, SourceScan, rejected_archive
from datasets.sources.decompress import BLOCK_BYTES, Readable, Section
from datasets.sources.inputs import ReplayInput
from datasets.sources.names import META_NAME, key_of, parsed_root
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.sevenzip_blocks import Block, dictionary_bytes, open_block
from datasets.sources.sevenzip_directory import Directory
from datasets.sources.sevenzip_header import read_directory
from datasets.sources.storage import open_file

BLOCKS_AT_ONCE = 4
DICTIONARY_BYTES_AT_ONCE = 256 * 2**20
"""Blocks with large dictionaries (7-Zip's highest level: 256 MB) are unpacked one by one."""


def list_7z(archive: StoredFile, walk: SourceScan) -> Iterator[ReplayInput]:
    """The members to take, each with its content. A block all of whose members are done is not decompressed.

    In memory: the directory, and for each block being unpacked a dictionary and two members.
    """
    try:
        with open_file(archive.location) as file:
            directory = read_directory(file, archive.num_bytes)
        yield from _Reader(archive, walk, directory).inputs()
    except DAMAGE as error:
        yield from rejected_archive(walk, archive, rejection_of(error))


class _Placed(NamedTuple):
    """A member, and where it lies in its block."""

    index: int
    """Among the block's members."""
    member: Member
    start: int
    """Its first byte, uncompressed."""


class _Reader:
    """Goes through an archive: first to see what is wanted, then to unpack that."""

    def __init__(self, archive: StoredFile, walk: SourceScan, directory: Directory) -> None:
        self._archive = archive
        self._walk = walk
        self._directory = directory
        self._is_wanted = bytearray(directory.num_files)
        self._wants_parsed = False
        self._tables: dict[str, Metadata] = {}

    def inputs(self) -> Iterator[ReplayInput]:
        """Those that are wanted; without content where the walk only counts."""
        blocks = range(len(self._directory.streams.blocks))
        for member in self._empty_files():
            if self._look_at(member):
                yield replace(member.input(self._archive), content=b"")
        for block in blocks:
            for placed in self._members(block):
                if self._look_at(placed.member) and not self._walk.reads_contents:
                    yield placed.member.input(self._archive)
        if not self._walk.reads_contents:
            return
        largest = max(map(dictionary_bytes, self._directory.streams.blocks), default=0)
        at_once = max(1, min(BLOCKS_AT_ONCE, DICTIONARY_BYTES_AT_ONCE // max(1, largest)))
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="unpack-7z")
        try:
            for first in blocks[::at_once]:
                yield from self._unpack(blocks[first : first + at_once], pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _look_at(self, member: Member) -> bool:
        """Count a member that is passed over, or note that it is wanted."""
        if not member.is_candidate:
            self._walk.ignore(member.name)
            return False
        keys = member.key(self._archive), self._key_if_damaged(member)
        is_wanted = self._walk.wants(*keys, num_bytes=member.stored_bytes)
        self._is_wanted[member.number] = is_wanted
        self._wants_parsed |= is_wanted and member.kind == "parsed"
        return is_wanted

    def _empty_files(self) -> Iterator[Member]:
        for number in self._directory.empty_files():
            name = self._directory.name(number)
            yield Member(number=number, name=name, num_bytes=0, stored_bytes=0, checksum=0)

    def _members(self, index: int) -> Iterator[_Placed]:
        streams = self._directory.streams
        block = streams.blocks[index]
        packed, unpacked = block.packed_bytes, max(1, block.num_bytes)
        for place, (stream, number, start) in enumerate(self._directory.streams_of(index)):
            num_bytes, crc = streams.sizes[stream], streams.crcs[stream]
            member = Member(
                number=number,
                name=self._directory.name(number),
                num_bytes=num_bytes,
                stored_bytes=(start + num_bytes) * packed // unpacked - start * packed // unpacked,
                checksum=crc if crc >= 0 else (self._archive.num_bytes, self._archive.mtime_ns),
            )
            yield _Placed(place, member, start)

    def _key_if_damaged(self, member: Member) -> str:
        """Key of a member that cannot be read: in the repaired archive it is another input."""
        return key_of(member.key(self._archive), self._archive.num_bytes, self._archive.mtime_ns)

    def _to_read(self, block: int) -> Iterator[_Placed]:
        for placed in self._members(block):
            if self._is_wanted[placed.member.number] or (self._wants_parsed and placed.member.kind == "meta"):
                yield placed

    def _unpack(self, indices: range, pool: ThreadPoolExecutor) -> Iterator[ReplayInput]:
        """The members of some blocks: the first of each, the second of each, and so on."""
        with ExitStack() as stack:
            pipes = []
            for index in indices:
                if any(True for _ in self._to_read(index)):
                    stream = _BlockStream(self._archive.location, self._directory.streams.blocks[index])
                    stack.callback(stream.stop)
                    pipes.append(_Pipe(self._to_read(index), stream, pool))
            while heads := [(pipe.head, pipe) for pipe in pipes if pipe.head is not None]:
                head, pipe = min(heads, key=lambda pair: pair[0].index)
                if head.member.kind == "meta":
                    yield from self._read_meta(head.member, pipe)
                else:
                    yield self._input(head.member, pipe)

    def _input(self, member: Member, pipe: _Pipe) -> ReplayInput:
        replay = member.input(self._archive)
        if replay.kind == "parsed" and (table := self._tables.get(parsed_root(member.name))) is not None:
            replay = replace(replay, meta=table.get(replay.name))
        try:
            content = pipe.take()
            return replay if content is None else replace(replay, content=content)
        except DAMAGE as error:
            return replace(replay, key=self._key_if_damaged(member), rejection=rejection_of(error))

    def _read_meta(self, member: Member, pipe: _Pipe) -> Iterator[ReplayInput]:
        table = self._tables.setdefault(member.name[: -len(META_NAME)], Metadata())
        try:
            table.read(pipe.take_stream())
        except DAMAGE as error:
            code, message = rejection_of(error)
            yield from rejected_archive(self._walk, self._archive, (code, f"{META_NAME}: {message}"))
        pipe.advance()


class _Pipe:
    """The members of one block that are to be read; the one at the head is being unpacked already."""

    def __init__(self, members: Iterator[_Placed], stream: _BlockStream, pool: ThreadPoolExecutor) -> None:
        self._members = members
        self._stream = stream
        self._pool = pool
        self._content: Future[bytes] | None = None
        self.head: _Placed | None = None
        self.advance()

    def advance(self) -> None:
        """Go on to the next member."""
        self.head = next(self._members, None)
        self._content = None
        if self.head is not None and self.head.member.kind != "meta" and self.head.member.rejection() is None:
            self._content = self._pool.submit(self._stream.content, self.head)

    def take(self) -> bytes | None:
        """The head's content, None where it is refused unread; goes on to the next.

        Raises:
            ReplayError: the member or its block is damaged; what a decoder raises on damage.
        """
        content = self._content
        try:
            return None if content is None else content.result()
        finally:
            self.advance()

    def take_stream(self) -> Section:
        """The head as a file; `advance` is to be called once it was read."""
        assert self.head is not None
        return self._stream.section(self.head)


class _BlockStream:
    """A block's members, in order; whatever stops it once stops all that follow."""

    def __init__(self, location: str, block: Block) -> None:
        self._location = location
        self._block = block
        self._fault: Exception | None = None
        self._position = 0
        self._file: BinaryIO | None = None
        self._stream: Readable | None = None
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Let a thread that is on its way to a member give up."""
        self._is_stopped.set()

    def content(self, placed: _Placed) -> bytes:
        """A member's bytes.

        Raises:
            ReplayError: `wrong_size`, or the block cannot be read so far.
        """
        content = self.section(placed).read(placed.member.num_bytes)
        if len(content) < placed.member.num_bytes:
            raise ReplayError("unopenable", "the archive's compressed bytes end too early")
        if isinstance(placed.member.checksum, int) and zlib.crc32(content) != placed.member.checksum:
            raise ReplayError("wrong_size", "the CRC is not what the archive's directory says")
        return content

    def section(self, placed: _Placed) -> Section:
        """A member as a file of its own; what lies before it is unpacked and dropped.

        Raises:
            ReplayError: the block cannot be read so far.
        """
        while self._position < placed.start:
            if not self.read(min(BLOCK_BYTES, placed.start - self._position)):
                raise ReplayError("unopenable", "the archive's compressed bytes end too early")
        return Section(self, placed.member.num_bytes)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        if self._is_stopped.is_set():
            return b""
        if self._fault is not None:
            raise self._fault
        try:
            if self._stream is None:
                self._file = open_file(self._location)
                self._stream = open_block(self._file, self._block)
            content = self._stream.read(size)
        except DAMAGE as error:
            self._fault = error
            raise
        self._position += len(content)
        return content
