"""Zip archives: the directory is read as a stream, members by range (APPNOTE.TXT 6.3.10 gives the layouts).

Not `zipfile`: it makes an object of each of 172,000 members before the first is read, and a worker that reads one
member would have to read the directory first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from datasets.legacy.meta_json import Metadata
from datasets.runtime.errors import ReplayError
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archive_members import Member, SourceScan, rejected_archive
from datasets.sources.decompress import ZIP_METHOD_NAMES, ZIP_METHODS, unpacked_file
from datasets.sources.inputs import ReplayInput, ZipMember
from datasets.sources.names import META_NAME, parsed_root
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.storage import open_file, read_range

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
DIRECTORY_ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
END_64_LOCATOR = struct.Struct("<4sLQL")
MAX_COMMENT_BYTES = 65_535
SLACK_BYTES = 256
"""Read beyond a member in the same request: its local header's extra fields, whose length only that header tells."""
ENCRYPTED_FLAG, DESCRIPTOR_FLAG, UTF8_FLAG = 0x1, 0x8, 0x800
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF
ZIP64_EXTRA = 1


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the directory of a zip lies."""

    start: int
    num_bytes: int
    num_entries: int
    shift: int
    """Bytes before the archive proper, which its offsets do not count."""


def list_zip(archive: StoredFile, walk: SourceScan) -> Iterator[ReplayInput]:
    """The members to take, in the directory's order; an archive that is cut off is named, and what it holds taken."""
    try:
        with open_file(archive.location) as file:
            try:
                directory = _find_directory(file, archive.num_bytes)
                members: Callable[[], Iterator[Member]] = lambda: _directory_members(file, directory)  # noqa: E731
            except DAMAGE as error:
                yield from rejected_archive(walk, archive, rejection_of(error))
                members = lambda: _local_members(file, archive.num_bytes)  # noqa: E731
            yield from _inputs(archive, members, walk)
    except DAMAGE as error:
        yield from rejected_archive(walk, archive, rejection_of(error))


def _inputs(archive: StoredFile, members: Callable[[], Iterator[Member]], walk: SourceScan) -> Iterator[ReplayInput]:
    tables: dict[str, Metadata] = {}
    for member in members():
        if not member.is_candidate:
            if not member.name.endswith("/"):
                walk.ignore(member.name)
            continue
        if not walk.wants(member.key(archive), num_bytes=member.stored_bytes):
            continue
        meta = None
        if member.kind == "parsed" and walk.reads_contents:
            root = parsed_root(member.name)
            if root not in tables:
                tables[root] = Metadata()
                yield from _read_meta(archive, members(), root, tables[root], walk)
            meta = tables[root].get(member.name[-32:])
        yield member.input(archive, meta)


def _read_meta(
    archive: StoredFile, members: Iterator[Member], root: str, table: Metadata, walk: SourceScan
) -> Iterator[ReplayInput]:
    """Fill the table from the `meta.json` beside a folder of parsed games, wherever the directory has it."""
    for member in members:
        if member.name == root + META_NAME and isinstance(member.byte_range, ZipMember):
            try:
                if member.problem is not None:
                    raise ReplayError(*member.problem)
                with open_file(archive.location) as file:
                    _find_content(file, member.byte_range)
                    table.read(unpacked_file(file, member.byte_range))
            except DAMAGE as error:
                code, message = rejection_of(error)
                yield from rejected_archive(walk, archive, (code, f"{META_NAME}: {message}"))
            return


def _find_content(file: BinaryIO, byte_range: ZipMember) -> None:
    """Move to the first stored byte of a member."""
    file.seek(byte_range.header_offset)
    header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    file.seek(header[-2] + header[-1], 1)


def read_zip_member(location: str, byte_range: ZipMember) -> bytes:
    """A member as it lies in its archive, behind its local header: one read, two where that header is long.

    Raises:
        OSError: the archive cannot be read.
        ReplayError: there is no member, or the archive ends within it.
    """
    content = read_range(location, byte_range.header_offset, LOCAL_HEADER.size + SLACK_BYTES + byte_range.stored_bytes)
    if len(content) < LOCAL_HEADER.size or not content.startswith(b"PK\x03\x04"):
        raise ReplayError("unopenable", "there is no member where the archive's directory says")
    *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(content)
    start = LOCAL_HEADER.size + name_bytes + extra_bytes
    stored = content[start : start + byte_range.stored_bytes]
    if missing := byte_range.stored_bytes - len(stored):
        stored += read_range(location, byte_range.header_offset + start + len(stored), missing)
    if len(stored) < byte_range.stored_bytes:
        raise ReplayError("unopenable", "the archive ends within this member")
    return stored


def _find_directory(file: BinaryIO, archive_bytes: int) -> Directory:
    tail_bytes = min(archive_bytes, END.size + MAX_COMMENT_BYTES + END_64_LOCATOR.size + END_64.size)
    tail_start = archive_bytes - tail_bytes
    file.seek(tail_start)
    tail = file.read(tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < END.size:
        raise ReplayError("unopenable", "the archive's directory is missing: it is cut off, or no zip")
    _, disk, first_disk, _, num_entries, num_bytes, start, _ = END.unpack_from(tail, at)
    end = tail_start + at
    locator_at = at - END_64_LOCATOR.size
    if locator_at >= 0 and tail.startswith(b"PK\x06\x07", locator_at):
        _, _, end_64, _ = END_64_LOCATOR.unpack_from(tail, locator_at)
        end_64, record = _find_end_64(file, end_64, tail_start + locator_at)
        _, _, _, _, disk, first_disk, _, num_entries, num_bytes, start = record
        end = end_64
    if disk or first_disk:
        raise ReplayError("unopenable", "one part of an archive of several; join them first")
    shift = end - num_bytes - start
    if shift < 0:
        raise ReplayError("unopenable", "the archive's directory lies outside of it")
    return Directory(start + shift, num_bytes, num_entries, shift)


def _find_end_64(file: BinaryIO, said: int, locator: int) -> tuple[int, tuple]:
    """Where the 64-bit end record lies, and its fields: where the locator says, or right before the locator."""
    for place in (said, locator - END_64.size):
        file.seek(max(0, place))
        record = file.read(END_64.size)
        if len(record) == END_64.size and record.startswith(b"PK\x06\x06"):
            return place, END_64.unpack(record)
    raise ReplayError("unopenable", "the archive's 64-bit directory is missing")


def _directory_members(file: BinaryIO, directory: Directory) -> Iterator[Member]:
    """All entries of the directory; only one is in memory. A cut or damaged directory raises after the good ones."""
    position, end = directory.start, directory.start + directory.num_bytes
    number = 0
    while position + DIRECTORY_ENTRY.size <= end:
        file.seek(position)
        head = file.read(DIRECTORY_ENTRY.size)
        if len(head) < DIRECTORY_ENTRY.size or not head.startswith(b"PK\x01\x02"):
            raise ReplayError("unopenable", f"the archive's directory is damaged after {number} members")
        fields = DIRECTORY_ENTRY.unpack(head)
        (_, _, _, flags, method, _, _, crc, stored, num_bytes) = fields[:10]
        name_bytes, extra_bytes, comment_bytes, disk, _, _, offset = fields[10:]
        name = file.read(name_bytes)
        sizes = _full_sizes(file.read(extra_bytes), num_bytes, stored, offset)
        position += DIRECTORY_ENTRY.size + name_bytes + extra_bytes + comment_bytes
        yield _member(number, name, flags, method, crc, *sizes, shift=directory.shift, is_elsewhere=bool(disk))
        number += 1
    if (number - directory.num_entries) & FULL_16:  # without zip64 the count has 16 bits
        message = f"the archive's directory has {number} members, its end says {directory.num_entries}"
        raise ReplayError("unopenable", message)


def _full_sizes(extra: bytes, num_bytes: int, stored: int, offset: int) -> tuple[int, int, int]:
    """Size, stored size and offset, from the zip64 field for those that do not fit 32 bits."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == ZIP64_EXTRA:
            values = iter(struct.unpack_from(f"<{min(size, len(extra) - 4) // 8}Q", extra, 4))
            num_bytes, stored, offset = (
                next(values, value) if value == FULL_32 else value for value in (num_bytes, stored, offset)
            )
        extra = extra[4 + size :]
    return num_bytes, stored, offset


def _member(
    number: int, name: bytes, flags: int, method: int, crc: int, num_bytes: int, stored: int, offset: int,
    *, shift: int, is_elsewhere: bool = False,
) -> Member:  # fmt: skip
    problem = None
    if flags & ENCRYPTED_FLAG:
        problem = "encrypted", "the member is encrypted"
    elif method not in ZIP_METHODS:
        called = ZIP_METHOD_NAMES.get(method, "unknown")
        problem = "unopenable", f"compression method {method} ({called}); expected stored, deflate, bzip2, LZMA or zstd"
    elif is_elsewhere:
        problem = "unopenable", "the member lies in another part of the archive"
    byte_range = ZipMember(
        header_offset=offset + shift, stored_bytes=stored, num_bytes=num_bytes, crc=crc, method=method
    )
    return Member(
        number=number,
        name=name.decode("utf-8", "replace") if flags & UTF8_FLAG else _old_name(name),
        num_bytes=max(num_bytes, stored),
        stored_bytes=stored,
        checksum=crc,
        byte_range=byte_range,
        problem=problem,
    )


def _old_name(name: bytes) -> str:
    """Names without the UTF-8 flag are code page 437 by the book, and UTF-8 as most programs write them."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _local_members(file: BinaryIO, archive_bytes: int) -> Iterator[Member]:
    """Members by the headers before each, where the directory is gone; ends where a header does not tell the size."""
    position = number = 0
    while True:
        file.seek(position)
        head = file.read(LOCAL_HEADER.size)
        if len(head) < LOCAL_HEADER.size or not head.startswith(b"PK\x03\x04"):
            return
        _, _, flags, method, _, _, crc, stored, num_bytes, name_bytes, extra_bytes = LOCAL_HEADER.unpack(head)
        name = file.read(name_bytes)
        num_bytes, stored, _ = _full_sizes(file.read(extra_bytes), num_bytes, stored, 0)
        if flags & DESCRIPTOR_FLAG and not stored:
            return
        member = _member(number, name, flags, method, crc, num_bytes, stored, position, shift=0)
        position += LOCAL_HEADER.size + name_bytes + extra_bytes + stored
        if position > archive_bytes:
            member.cut_off(archive_bytes)
        yield member
        number += 1
