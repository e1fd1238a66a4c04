"""The directory of a 7z archive, from py7zr: which members lie in which compressed block.

Import it only in the process that reads 7z archives, since a hostile directory may take all memory or time.
"""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import py7zr
import py7zr.archiveinfo
from py7zr.archiveinfo import Folder
from py7zr.compressor import SupportedMethods, get_methods_names
from py7zr.exceptions import Bad7zFile, PasswordRequired, UnsupportedCompressionMethodError

from datasets.runtime.errors import ReplayError
from datasets.sources.archives.sevenzip_process import Row
from datasets.sources.read_errors import rejection_of

# py7zr refuses archives of more than 65,536 blocks, such as large ones that are not solid. This process has limits.
py7zr.archiveinfo.MAX_NUMSTREAMS = 1 << 20  # pyrefly: ignore[bad-assignment]

LZMA_METHODS = (b"\x03\x01\x01", b"\x21")
"""LZMA and LZMA2."""
SUPPORTED = "expected LZMA, LZMA2, deflate, bzip2, zstd, PPMd, Brotli or none: repack it"


@dataclass(slots=True)
class Block:
    """What 7z calls a folder: members compressed as one stream."""

    folder: Folder
    start: int
    """Byte of the archive at which it begins."""
    packed_bytes: int
    num_bytes: int = 0
    """Uncompressed."""
    members: list[tuple[int, str, int, int | None]] = field(default_factory=list)
    """Number, name, bytes and CRC."""

    def rows(self, index: int) -> Iterator[Row]:
        """Its members, where it is the archive's block of that index."""
        start, unpacked = 0, max(1, self.num_bytes)
        for position, (number, name, num_bytes, crc) in enumerate(self.members):
            end = start + num_bytes
            stored_bytes = end * self.packed_bytes // unpacked - start * self.packed_bytes // unpacked
            yield Row(number, index, position, name, num_bytes, stored_bytes, crc)
            start = end

    def dictionary_bytes(self) -> int:
        """Memory that decompressing takes beside the members, as far as it is known: liblzma allocates it at once."""
        largest = 0
        for coder in self.folder.coders:
            if coder["method"] in LZMA_METHODS:
                with contextlib.suppress(Exception):  # hostile properties; decompressing will name them
                    filter_id = SupportedMethods.get_filter_id(coder)
                    properties = lzma._decode_filter_properties(filter_id, coder["properties"])  # type: ignore[attr-defined]
                    largest = max(largest, properties["dict_size"])
        return largest


class Archive:
    """A 7z archive's directory.

    Raises:
        ReplayError: code `encrypted` or `unopenable`.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            archive = py7zr.SevenZipFile(file)
            self.empty_files = list(_empty_files(archive))
            self.blocks = _blocks(archive)
        except PasswordRequired as error:
            raise ReplayError("encrypted", "the archive is encrypted") from error
        except UnsupportedCompressionMethodError as error:
            raise ReplayError(
                "unopenable", f"unsupported compression of the archive's directory; {SUPPORTED}"
            ) from error
        except (ReplayError, MemoryError):
            raise
        except OSError as error:
            raise ReplayError(*rejection_of(error)) from error
        except Exception as error:
            text = str(error) if isinstance(error, Bad7zFile) else type(error).__name__
            raise ReplayError("unopenable", f"the archive is cut off or damaged, or no 7z: {text[:100]}") from error

    def rows(self) -> Iterator[Row]:
        """All files: first the empty ones, then those of each block."""
        for number, name in self.empty_files:
            yield Row(number, -1, -1, name, 0, 0, 0)
        for index, block in enumerate(self.blocks):
            yield from block.rows(index)


def _empty_files(archive: py7zr.SevenZipFile) -> Iterator[tuple[int, str]]:
    """Number and name of files without bytes that are no folders."""
    if archive.header.files_info is None:
        return
    is_file = iter(archive.header.files_info.emptyfiles)
    for member in archive.files:
        if member.emptystream and next(is_file, False):
            yield member.id, member.filename


def _blocks(archive: py7zr.SevenZipFile) -> list[Block]:
    streams = archive.header.main_streams
    if streams is None:
        if not all(member.emptystream for member in archive.files):
            raise Bad7zFile("members without streams")
        return []
    packed, unpacked, members = streams.packinfo, streams.unpackinfo, streams.substreamsinfo
    if packed is None or unpacked is None or members is None:
        raise Bad7zFile("the directory is incomplete")
    blocks: dict[int, Block] = {}
    sizes = iter(packed.packsizes)
    start = archive.afterheader + packed.packpos
    for folder in unpacked.folders:
        packed_bytes = sum(next(sizes) for _ in folder.packed_indices)
        blocks[id(folder)] = Block(folder, start, packed_bytes)
        start += packed_bytes
    for member in archive.files:
        if not member.emptystream:
            if member.uncompressed < 0:
                raise Bad7zFile("a member's size is negative")
            block = blocks[id(member.folder)]
            block.members.append((member.id, member.filename, member.uncompressed, member.crc32))
            block.num_bytes += member.uncompressed
    found = list(blocks.values())
    if [len(block.members) for block in found] != members.num_unpackstreams_folders:
        raise Bad7zFile("the numbers of members and streams differ")
    return found


def method_names(folder: Folder) -> list[str]:
    """Names of a block's methods, or their ids."""
    names: list[str] = []
    with contextlib.suppress(Exception):
        names = [name for name in get_methods_names([folder.coders]) if name]
    return names or [coder["method"].hex() for coder in folder.coders]
