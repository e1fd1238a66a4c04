"""Tar archives: members by range where the archive is a file that can be sought in, else carried as they come."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

from datasets.legacy.meta_json import Metadata
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archive_members import Member, SourceScan, rejected_archive
from datasets.sources.decompress import BLOCK_BYTES, Inflater, Pull, Readable, Section, ZstdFile
from datasets.sources.inputs import ReplayInput, TarMember
from datasets.sources.names import META_NAME, kind_of, parsed_root
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.storage import open_file, read_range
from datasets.sources.tar_headers import Header, TarStream, cut_off, headers

FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
TYPICAL_BYTES = 1 << 19
"""Of a compressed replay: 585,000 in dev.zip (gzip), 442,000 in pool.7z."""
PROBLEMS = {
    tarfile.SYMTYPE: ("unsafe_path", "a symbolic link"),
    tarfile.LNKTYPE: ("unsafe_path", "a link to another member"),
    tarfile.CHRTYPE: ("unsafe_path", "a device"),
    tarfile.BLKTYPE: ("unsafe_path", "a device"),
    tarfile.FIFOTYPE: ("unsafe_path", "a pipe"),
    tarfile.GNUTYPE_SPARSE: ("unopenable", "a sparse file; pack it as a plain one"),
}
"""Type of member -> why it is refused."""


def list_tar(archive: StoredFile, walk: SourceScan) -> Iterator[ReplayInput]:
    """The members of an uncompressed tar on a local disk, each to be read by its range."""
    tables = _Tables(archive)
    faults: list[tuple[str, str]] = []
    try:
        with open_file(archive.location) as file:
            for number, header in enumerate(headers(TarStream(file, archive.num_bytes), faults)):
                member = _member(archive, number, header, header.num_bytes)
                member.byte_range = TarMember(offset=header.start, num_bytes=header.num_bytes)
                if header.start + header.num_bytes > archive.num_bytes:
                    member.cut_off(archive.num_bytes)
                if _is_wanted(archive, header, member, walk):
                    yield member.input(archive, tables.meta(member.name) if walk.reads_contents else None)
    except DAMAGE as error:
        faults.append(rejection_of(error))
    for fault in [*faults, *tables.faults]:
        yield from rejected_archive(walk, archive, fault)


def read_tar_member(location: str, byte_range: TarMember) -> bytes:
    """A member's bytes.

    Raises:
        OSError: the archive cannot be read.
        ReplayError: it ends within the member.
    """
    content = read_range(location, byte_range.offset, byte_range.num_bytes)
    if len(content) < byte_range.num_bytes:
        raise cut_off()
    return content


def stream_tar(archive: StoredFile, walk: SourceScan) -> Iterator[ReplayInput]:
    """The members of a compressed or remote tar, each with its content. One member is in memory."""
    if not walk.reads_contents:
        walk.estimate(max(1, archive.num_bytes // TYPICAL_BYTES), archive.num_bytes)
        return
    faults: list[tuple[str, str]] = []
    try:
        with open_file(archive.location) as file:
            yield from _carried(archive, file, walk, faults)
    except DAMAGE as error:
        faults.append(rejection_of(error))
    for fault in faults:
        yield from rejected_archive(walk, archive, fault)


def _carried(
    archive: StoredFile, file: BinaryIO, walk: SourceScan, faults: list[tuple[str, str]]
) -> Iterator[ReplayInput]:
    stream = _unpacked(archive, file)
    tables: dict[str, Metadata] = {}
    accounted = 0
    for number, header in enumerate(headers(stream, faults)):
        member = _member(archive, number, header, file.tell() - accounted)
        if kind_of(header.name) == "meta" and header.type in FILE_TYPES:
            table = tables.setdefault(header.name[: -len(META_NAME)], Metadata())
            faults += _faults_of_meta(table, Section(stream, header.num_bytes))
        if member.is_candidate:
            accounted += member.stored_bytes
        if not _is_wanted(archive, header, member, walk):
            continue
        table = tables.get(parsed_root(header.name)) if kind_of(header.name) == "parsed" else None
        replay = member.input(archive, None if table is None else table.get(header.name[-32:]))
        if replay.rejection is not None:
            yield replay
            continue
        try:
            yield replace(replay, content=stream.read_all(header.num_bytes))
        except DAMAGE as error:
            yield replace(replay, rejection=rejection_of(error))
            raise


def _unpacked(archive: StoredFile, file: BinaryIO) -> TarStream:
    name = archive.name.lower()
    if name.endswith(".tar"):
        return TarStream(file, archive.num_bytes)
    unpacked = ZstdFile(file) if name.endswith("zst") else Pull(Inflater(is_gzip=True), file)
    return TarStream(cast("BinaryIO", io.BufferedReader(Unpacked(unpacked), BLOCK_BYTES)), None)


class Unpacked(io.RawIOBase):
    """A decompressor as Python reads files, so that small reads can be buffered."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Decompress into the buffer."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _member(archive: StoredFile, number: int, header: Header, stored_bytes: int) -> Member:
    return Member(
        number=number,
        name=header.name,
        num_bytes=header.num_bytes,
        stored_bytes=stored_bytes,
        checksum=(archive.num_bytes, archive.mtime_ns),
        problem=None if header.type in FILE_TYPES else PROBLEMS.get(header.type, ("unopenable", "no plain file")),
    )


def _is_wanted(archive: StoredFile, header: Header, member: Member, walk: SourceScan) -> bool:
    if header.type == tarfile.DIRTYPE:
        return False
    if not member.is_candidate:
        walk.ignore(member.name)
        return False
    return walk.wants(member.key(archive), num_bytes=member.stored_bytes)


def _faults_of_meta(table: Metadata, file: Readable) -> list[tuple[str, str]]:
    try:
        table.read(file)
    except DAMAGE as error:
        code, message = rejection_of(error)
        return [(code, f"{META_NAME}: {message}")]
    return []


class _Tables:
    """The tables of the `meta.json` files in a tar that can be sought in, each read when it is first needed."""

    def __init__(self, archive: StoredFile) -> None:
        self.faults: list[tuple[str, str]] = []
        self._archive = archive
        self._tables: dict[str, Metadata] = {}

    def meta(self, name: str) -> dict[str, Any] | None:
        """What is said of a parsed game, wherever in the archive; None of other members."""
        if kind_of(name) != "parsed":
            return None
        root = parsed_root(name)
        if root not in self._tables:
            self._tables[root] = Metadata()
            try:
                self._read(root)
            except DAMAGE as error:
                self.faults.append(rejection_of(error))
        return self._tables[root].get(name[-32:])

    def _read(self, root: str) -> None:
        with open_file(self._archive.location) as file:
            stream = TarStream(file, self._archive.num_bytes)
            for header in headers(stream, []):
                if header.name == root + META_NAME and header.type in FILE_TYPES:
                    self.faults += _faults_of_meta(self._tables[root], Section(stream, header.num_bytes))
                    return
