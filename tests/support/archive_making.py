"""Archives as the tests need them: of every kind, and zips that say what no valid_member program would."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import py7zr
import pyarrow as pa


@dataclass(kw_only=True)
class RawMember:
    """A zip member with each field as it is written."""

    name: str
    stored: bytes
    num_bytes: int
    crc: int
    method: int = 0
    flags: int = 0
    stored_bytes: int | None = None
    is_zip64: bool = False


def valid_member(name: str, content: bytes, method: int = 0, stored: bytes | None = None) -> RawMember:
    """A member with correct fields."""
    return RawMember(
        name=name,
        stored=content if stored is None else stored,
        num_bytes=len(content),
        crc=zlib.crc32(content),
        method=method,
    )


def raw_zip(*members: RawMember, prefix: bytes = b"", is_zip64: bool = False) -> bytes:
    """A zip of these members (APPNOTE.TXT 6.3.10)."""
    body, directory = io.BytesIO(), io.BytesIO()
    for member in members:
        offset, stored_bytes = body.tell(), len(member.stored)
        stored_bytes = stored_bytes if member.stored_bytes is None else member.stored_bytes
        name, extra, in_extra, sizes = member.name.encode(), b"", b"", (stored_bytes, member.num_bytes)
        if member.is_zip64:
            extra = struct.pack("<2H2Q", 1, 16, member.num_bytes, stored_bytes)
            in_extra = struct.pack("<2H3Q", 1, 24, member.num_bytes, stored_bytes, offset)
            sizes, offset = (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF
        facts = (member.flags, member.method, 0, 0x21, member.crc, *sizes, len(name))
        body.write(struct.pack("<4s5H3L2H", b"PK\3\4", 45, *facts, len(extra)) + name + extra + member.stored)
        entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, *facts, len(in_extra), 0, 0, 0, 0, offset)
        directory.write(entry + name + in_extra)
    start, size, number = body.tell(), directory.tell(), len(members)
    end = b""
    if is_zip64:
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, number, number, size, start)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, len(prefix) + start + size, 1)
        start, size, number = 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF
    end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, size, start, 0)
    return prefix + body.getvalue() + directory.getvalue() + end


def zstd(content: bytes) -> bytes:
    """One zstd frame."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def tar_bytes(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    """A tar, compressed by mode (`w:gz`)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write_archive(path: Path, members: Mapping[str, bytes]) -> Path:
    """An archive of the kind of the path's suffix."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    elif path.name.endswith(".7z"):
        with py7zr.SevenZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writef(io.BytesIO(content), name)
    elif path.name.endswith(".tar.zst"):
        path.write_bytes(zstd(tar_bytes(members)))
    else:
        path.write_bytes(tar_bytes(members, mode="w" if path.name.endswith(".tar") else "w:gz"))
    return path
