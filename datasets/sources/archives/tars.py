"""Tar archives: members by range where the archive is a local, uncompressed file, else carried in archive order.

`tarfile` parses the headers. Its `TarFile.next` is replaced by `_headers`, since it takes a damaged header for the end
of the archive and keeps all members in memory.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO, cast

from datasets.legacy.meta_json import Metadata, Readable
from datasets.runtime.errors import ReplayError
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archives.decompress import BLOCK_BYTES, open_gzip, open_zstd, read_limited
from datasets.sources.archives.members import Member, fill_table, with_meta
from datasets.sources.inputs import ReplayInput, TarMember
from datasets.sources.names import META_NAME, kind_of, parsed_root
from datasets.sources.read_errors import READ_ERRORS, rejection_of
from datasets.sources.scan_state import SourceScan, rejected_archive
from datasets.sources.storage import open_file, read_range

MAX_HEADER_BYTES = 1 << 20
"""Largest long name or pax header that is read."""
HEADER_BUFFER_BYTES = 4096
"""Read for each header of an archive whose contents are skipped by seeking."""
TYPICAL_BYTES = 1 << 19
"""Of a compressed replay: 585,000 in dev.zip (gzip), 442,000 in pool.7z."""
MAGIC = slice(257, 262), b"ustar"
"""Position of the magic bytes in a header, and the bytes."""
LONG_NUMBER = re.compile(rb"\d{100}")
"""Makes `tarfile` take quadratic time before Python 3.11.10 and 3.12.6 (CVE-2024-6232)."""
PROBLEMS = {
    tarfile.SYMTYPE: ("unsafe_path", "a symbolic link"),
    tarfile.LNKTYPE: ("unsafe_path", "a link to another member"),
    tarfile.CHRTYPE: ("unsafe_path", "a device"),
    tarfile.BLKTYPE: ("unsafe_path", "a device"),
    tarfile.FIFOTYPE: ("unsafe_path", "a pipe"),
}
"""Type of member -> why it is rejected."""


class _TarStream:
    """The bytes of a tar with the part of the file interface that `tarfile` needs, in a file or in a stream.

    `read` is for headers and therefore limited: a hostile header may state any size.
    """

    def __init__(self, file: Readable, archive_bytes: int | None) -> None:
        """Args:
        archive_bytes: size of a file that can seek; None for a stream, in which seeking forward reads.
        """
        self._file = file
        self._archive_bytes = archive_bytes
        self._position = 0
        self._unread = b""

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ReplayError("unopenable", f"a header of {size} bytes, expected at most {MAX_HEADER_BYTES}")
        content, self._unread = self._unread, b""
        self._position += len(content)
        content += self.read_content(size - len(content))
        if LONG_NUMBER.search(content):
            raise ReplayError("unopenable", "a header with a number of 100 digits")
        return content

    def unread(self, block: bytes) -> None:
        """Have the next `read` begin with a block that was just read."""
        self._unread = block
        self._position -= len(block)

    def read_content(self, size: int) -> bytes:
        """Up to `size` bytes of a member; fewer only at the end."""
        content = self._file.read(size)
        self._position += len(content)
        return content

    def seek(self, position: int) -> None:
        """Go forward to a position.

        Raises:
            ReplayError: code `unopenable`; the archive ends before it, or it is behind the current one.
        """
        if position < self._position:
            raise ReplayError("unopenable", "a member's size is negative")
        if self._archive_bytes is not None:
            if position > self._archive_bytes:
                raise _truncated()
            cast("BinaryIO", self._file).seek(position)
            self._position = position
        while self._position < position:
            if not self.read_content(min(BLOCK_BYTES, position - self._position)):
                raise _truncated()


class _Section:
    """A member as a file that ends after it."""

    def __init__(self, stream: _TarStream, num_bytes: int) -> None:
        self._stream = stream
        self._num_left = num_bytes

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        content = self._stream.read_content(min(size, self._num_left))
        self._num_left -= len(content)
        return content


def list_tar(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    """The members of an uncompressed local tar, each to be read by its range."""
    tables = _Tables(archive)
    errors: list[tuple[str, str]] = []
    try:
        with open_file(archive.location, HEADER_BUFFER_BYTES) as file:
            for number, header in enumerate(_headers(_TarStream(file, archive.num_bytes), errors)):
                member = _member(archive, number, header, header.size)
                member.byte_range = TarMember(offset=header.offset_data, num_bytes=header.size)
                if header.offset_data + header.size > archive.num_bytes:
                    member.mark_truncated(archive.num_bytes)
                if _is_admitted(archive, header, member, scan):
                    yield with_meta(member.input(archive), tables.table(member.name) if scan.reads_contents else None)
    except READ_ERRORS as error:
        errors.append(rejection_of(error))
    for rejection in [*errors, *tables.errors]:
        yield from rejected_archive(scan, archive, rejection)


def read_tar_member(location: str, member: TarMember) -> bytes:
    """A member's bytes.

    Raises:
        OSError: the archive cannot be read.
        ReplayError: the archive ends within the member.
    """
    content = read_range(location, member.offset, member.num_bytes)
    if len(content) < member.num_bytes:
        raise _truncated()
    return content


def stream_tar(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    """The members of a compressed or remote tar, each with its content. One member is in memory."""
    if not scan.reads_contents:
        scan.estimate(max(1, archive.num_bytes // TYPICAL_BYTES), archive.num_bytes)
        return
    errors: list[tuple[str, str]] = []
    try:
        with open_file(archive.location) as file:
            yield from _carried(archive, file, scan, errors)
    except READ_ERRORS as error:
        errors.append(rejection_of(error))
    for rejection in errors:
        yield from rejected_archive(scan, archive, rejection)


def _carried(
    archive: StoredFile, file: BinaryIO, scan: SourceScan, errors: list[tuple[str, str]]
) -> Iterator[ReplayInput]:
    stream = _decompressed(archive, file)
    tables: dict[str, Metadata] = {}
    accounted = 0
    for number, header in enumerate(_headers(stream, errors)):
        member = _member(archive, number, header, file.tell() - accounted)
        if kind_of(header.name) == "meta" and header.isreg():
            table = tables.setdefault(header.name[: -len(META_NAME)], Metadata())
            errors += fill_table(table, partial(table.read, _Section(stream, header.size)))
        if member.is_candidate:
            accounted += member.stored_bytes
        if not _is_admitted(archive, header, member, scan):
            continue
        table = tables.get(parsed_root(header.name)) if kind_of(header.name) == "parsed" else None
        replay = with_meta(member.input(archive), table)
        if replay.rejection is not None:
            yield replay
            continue
        try:
            content = read_limited(_Section(stream, header.size), header.size)
            if len(content) < header.size:
                raise _truncated()
            yield replace(replay, content=content)
        except READ_ERRORS as error:
            yield replace(replay, rejection=rejection_of(error))
            raise


def _decompressed(archive: StoredFile, file: BinaryIO) -> _TarStream:
    name = archive.name.lower()
    if name.endswith(".tar"):
        return _TarStream(file, archive.num_bytes)
    return _TarStream(open_zstd(file) if name.endswith("zst") else open_gzip(file), None)


def _headers(stream: _TarStream, errors: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """All members in order, one in memory. The stream may be read between two of them.

    Args:
        errors: gets the rejection of the first damaged header; the listing goes on at the next valid one.
    Raises:
        ReplayError: code `unopenable`; the file is no tar, or cut off.
    """
    try:
        tar = tarfile.TarFile(fileobj=cast("BinaryIO", stream), encoding="utf-8", errors="surrogateescape")
    except tarfile.ReadError as error:
        raise ReplayError("unopenable", "the archive is cut off, or no tar") from error
    header = tar.next()
    while header is not None:
        yield header
        stream.seek(tar.offset)
        header = _next_header(tar, stream, errors)


def _next_header(tar: tarfile.TarFile, stream: _TarStream, errors: list[tuple[str, str]]) -> tarfile.TarInfo | None:
    """The next member; None at the end mark, or at the end of an archive with a damaged header."""
    is_lost = False
    while True:
        position = stream.tell()
        block = stream.read(tarfile.BLOCKSIZE)
        if is_lost and not block:
            return None
        if len(block) < tarfile.BLOCKSIZE:
            raise _truncated()
        if is_lost and block[MAGIC[0]] != MAGIC[1]:
            continue
        if not is_lost and not any(block):
            return None
        stream.unread(block)
        try:
            return tarfile.TarInfo.fromtarfile(tar)
        except tarfile.HeaderError:
            is_lost = True
            if not errors:
                errors.append(("unopenable", f"the archive has a damaged header at byte {position}"))


def _truncated() -> ReplayError:
    return ReplayError("unopenable", "the archive is cut off")


def _member(archive: StoredFile, number: int, header: tarfile.TarInfo, stored_bytes: int) -> Member:
    problem = None
    if header.issparse():
        problem = "unopenable", "a sparse file; pack it as a plain one"
    elif not header.isreg():
        problem = PROBLEMS.get(header.type, ("unopenable", "no regular file"))
    return Member(
        number=number,
        name=header.name,
        num_bytes=header.size,
        stored_bytes=stored_bytes,
        checksum=(archive.num_bytes, archive.mtime_ns),
        problem=problem,
    )


def _is_admitted(archive: StoredFile, header: tarfile.TarInfo, member: Member, scan: SourceScan) -> bool:
    if header.isdir():
        return False
    if not member.is_candidate:
        scan.ignore(member.name)
        return False
    return scan.admit(member.key(archive), num_bytes=member.stored_bytes)


class _Tables:
    """The tables of the `meta.json` files in a local tar, each read when it is first needed."""

    def __init__(self, archive: StoredFile) -> None:
        self.errors: list[tuple[str, str]] = []
        self._archive = archive
        self._tables: dict[str, Metadata] = {}

    def table(self, name: str) -> Metadata | None:
        """Metadata of the set of a parsed game, wherever it is in the archive; None for other members."""
        if kind_of(name) != "parsed":
            return None
        root = parsed_root(name)
        if root not in self._tables:
            table = self._tables[root] = Metadata()
            self.errors += fill_table(table, lambda: self._read(root, table))
        return self._tables[root]

    def _read(self, root: str, table: Metadata) -> None:
        with open_file(self._archive.location, HEADER_BUFFER_BYTES) as file:
            stream = _TarStream(file, self._archive.num_bytes)
            for header in _headers(stream, []):
                if header.name == root + META_NAME and header.isreg():
                    table.read(_Section(stream, header.size))
                    return
