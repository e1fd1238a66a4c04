"""Zip archives: `zipfile` reads the directory, workers read members by range (APPNOTE.TXT 6.3.10 has the layouts).

`zipfile` takes about 650 bytes for each member on the driver, 112 MB for 172,000. It cannot read an archive without a
directory, so where the archive is cut off, members are found by their local headers.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import BinaryIO

from datasets.legacy.meta_json import Metadata, Readable
from datasets.runtime.errors import ReplayError
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archives.decompress import BLOCK_BYTES, ZIP_METHODS, too_large, zip_content
from datasets.sources.archives.members import Member, fill_table, with_meta
from datasets.sources.inputs import ReplayInput, ZipMember
from datasets.sources.names import META_NAME, parsed_root
from datasets.sources.read_errors import READ_ERRORS, UNREACHABLE, rejection_of
from datasets.sources.scan_state import SourceScan, rejected_archive
from datasets.sources.storage import open_file, read_range

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE, DESCRIPTOR_SIGNATURE = b"PK\x03\x04", b"PK\x07\x08"
DESCRIPTOR, DESCRIPTOR_64 = struct.Struct("<4s3L"), struct.Struct("<4sL2Q")
EXTRA_BYTES = 256
"""Read beyond a member in the same request, for the extra fields of its local header, whose length is not known."""
ENCRYPTED_FLAG, DESCRIPTOR_FLAG, UTF8_FLAG = 0x1, 0x8, 0x800
FULL_32 = 0xFFFFFFFF
IN_ZIP64_FIELD = 0xFFFF
"""Disk number of a member whose real one is in its zip64 field (APPNOTE 4.4.13)."""
ZIP64_EXTRA = 1

OpenMember = Callable[[Member], Readable]
"""Opens a member's content as a stream."""


def list_zip(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    """The members to read, in the directory's order. A cut-off archive is rejected, and its whole members are read."""
    try:
        with open_file(archive.location) as file:
            try:
                with zipfile.ZipFile(file) as directory:
                    infos = directory.infolist()
                    members = partial(_directory_members, infos)
                    yield from _inputs(archive, members, lambda member: directory.open(infos[member.number]), scan)
                return
            except READ_ERRORS as error:
                code, message = rejection_of(error)
                if code == UNREACHABLE:
                    raise
                if isinstance(error, zipfile.BadZipFile):
                    message = "the archive is cut off or damaged, or no zip: its directory cannot be read"
                yield from rejected_archive(scan, archive, (code, message))
            yield from _inputs(
                archive, partial(_local_members, file, archive.num_bytes), partial(_open_whole, archive.location), scan
            )
    except READ_ERRORS as error:
        yield from rejected_archive(scan, archive, rejection_of(error))


def _inputs(
    archive: StoredFile, members: Callable[[], Iterator[Member]], open_member: OpenMember, scan: SourceScan
) -> Iterator[ReplayInput]:
    tables: dict[str, Metadata] = {}
    for member in members():
        if not member.is_candidate:
            if not member.name.endswith("/"):
                scan.ignore(member.name)
            continue
        if not scan.admit(member.key(archive), member.key_if_damaged(archive), num_bytes=member.stored_bytes):
            continue
        table = None
        if member.kind == "parsed" and scan.reads_contents:
            root = parsed_root(member.name)
            if root not in tables:
                tables[root] = Metadata()
                yield from _read_meta(archive, members(), root, tables[root], open_member, scan)
            table = tables[root]
        yield with_meta(member.input(archive), table)


def _read_meta(
    archive: StoredFile,
    members: Iterator[Member],
    root: str,
    table: Metadata,
    open_member: OpenMember,
    scan: SourceScan,
) -> Iterator[ReplayInput]:
    """Fill the table from the `meta.json` beside a folder of parsed games, wherever it is in the directory."""
    for member in members:
        if member.name == root + META_NAME:
            for rejection in fill_table(table, lambda member=member: table.read(_open_meta(member, open_member))):
                yield from rejected_archive(scan, archive, rejection)
            return


def _open_meta(member: Member, open_member: OpenMember) -> Readable:
    if member.problem is not None:
        raise ReplayError(*member.problem)
    return open_member(member)


def read_zip_member(location: str, member: ZipMember) -> bytes:
    """A member's bytes as the archive stores them: one read, or two if the local header is long.

    Raises:
        OSError: the archive cannot be read.
        ReplayError: there is no member at that offset, or the archive ends within it.
    """
    content = read_range(location, member.header_offset, LOCAL_HEADER.size + EXTRA_BYTES + member.stored_bytes)
    if len(content) < LOCAL_HEADER.size or not content.startswith(LOCAL_SIGNATURE):
        raise ReplayError("unopenable", "there is no member at the offset that the archive's directory states")
    *_, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(content)
    start = LOCAL_HEADER.size + name_bytes + extra_bytes
    stored = content[start : start + member.stored_bytes]
    if missing := member.stored_bytes - len(stored):
        stored += read_range(location, member.header_offset + start + len(stored), missing)
    if len(stored) < member.stored_bytes:
        raise ReplayError("unopenable", "the archive ends within this member")
    return stored


def _open_whole(location: str, member: Member) -> Readable:
    assert isinstance(member.byte_range, ZipMember)
    if (rejection := too_large(member.num_bytes)) is not None:
        raise ReplayError(*rejection)
    return BytesIO(zip_content(read_zip_member(location, member.byte_range), member.byte_range))


def _directory_members(infos: list[zipfile.ZipInfo]) -> Iterator[Member]:
    for number, info in enumerate(infos):
        is_utf8 = bool(info.flag_bits & UTF8_FLAG)
        yield _member(
            number,
            info.orig_filename if is_utf8 else _legacy_name(info.orig_filename.encode("cp437")),
            info.flag_bits,
            ZipMember(
                header_offset=info.header_offset,
                stored_bytes=info.compress_size,
                num_bytes=info.file_size,
                crc=info.CRC,
                method=info.compress_type,
            ),
            is_elsewhere=info.volume not in (0, IN_ZIP64_FIELD),
        )


def _legacy_name(name: bytes) -> str:
    """A name without the UTF-8 flag: by the specification code page 437, but most programs write UTF-8."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _member(number: int, name: str, flags: int, byte_range: ZipMember, *, is_elsewhere: bool = False) -> Member:
    problem = None
    if flags & ENCRYPTED_FLAG:
        problem = "encrypted", "the member is encrypted"
    elif byte_range.method not in ZIP_METHODS:
        names = zipfile.compressor_names  # pyrefly: ignore[missing-attribute]
        method = names.get(byte_range.method, "unknown")
        problem = (
            "unopenable",
            f"compression method {byte_range.method} ({method}); expected stored, deflate, bzip2, LZMA or zstd",
        )
    elif is_elsewhere:
        problem = "unopenable", "the archive is split and the member is in another part; join the parts first"
    return Member(
        number=number,
        name=name,
        num_bytes=max(byte_range.num_bytes, byte_range.stored_bytes),
        stored_bytes=byte_range.stored_bytes,
        checksum=byte_range.crc,
        byte_range=byte_range,
        problem=problem,
    )


def _local_members(file: BinaryIO, archive_bytes: int) -> Iterator[Member]:
    """Members by their local headers, for an archive without a directory; ends where no header follows."""
    position = number = 0
    while True:
        file.seek(position)
        header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(LOCAL_SIGNATURE):
            return
        _, _, flags, method, _, _, crc, stored, num_bytes, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
        name = file.read(name_bytes)
        num_bytes, stored = _zip64_sizes(file.read(extra_bytes), num_bytes, stored)
        end = start = position + LOCAL_HEADER.size + name_bytes + extra_bytes
        if flags & DESCRIPTOR_FLAG and not stored:
            found = _find_descriptor(file, start)
            if found is None:
                return
            crc, stored, num_bytes, descriptor_bytes = found
            end += descriptor_bytes
        end += stored
        byte_range = ZipMember(header_offset=position, stored_bytes=stored, num_bytes=num_bytes, crc=crc, method=method)
        text = name.decode("utf-8", "replace") if flags & UTF8_FLAG else _legacy_name(name)
        member = _member(number, text, flags, byte_range)
        if end > archive_bytes:
            member.mark_truncated(archive_bytes)
        yield member
        position = end
        number += 1


def _find_descriptor(file: BinaryIO, start: int) -> tuple[int, int, int, int] | None:
    """Search the data descriptor behind a member whose header states no sizes, as programs write that stream a zip.

    Returns:
        CRC, stored bytes, uncompressed bytes, and bytes of the descriptor; None if the archive ends before it.
    """
    file.seek(start)
    window, window_start = b"", start
    while block := file.read(BLOCK_BYTES):
        window += block
        at = window.find(DESCRIPTOR_SIGNATURE)
        while 0 <= at <= len(window) - DESCRIPTOR.size:
            for layout in (DESCRIPTOR_64, DESCRIPTOR):
                if at + layout.size <= len(window):
                    _, crc, stored, num_bytes = layout.unpack_from(window, at)
                    # Else the signature is part of the compressed data, or the sizes have 32 bits.
                    if stored == window_start + at - start and (num_bytes or layout is DESCRIPTOR):
                        return crc, stored, num_bytes, layout.size
            at = window.find(DESCRIPTOR_SIGNATURE, at + 1)
        kept = min(len(window), DESCRIPTOR_64.size - 1)
        window_start += len(window) - kept
        window = window[-kept:]
    return None


def _zip64_sizes(extra: bytes, num_bytes: int, stored: int) -> tuple[int, int]:
    """Size and stored size, from the zip64 field for those that do not fit 32 bits."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == ZIP64_EXTRA:
            values = iter(struct.unpack_from(f"<{min(size, len(extra) - 4) // 8}Q", extra, 4))
            num_bytes, stored = (next(values, value) if value == FULL_32 else value for value in (num_bytes, stored))
        extra = extra[4 + size :]
    return num_bytes, stored
