"""The headers of a tar, one by one (POSIX.1-2008 ustar and pax, GNU long names), over whatever is damaged.

Not `tarfile.TarFile`: it keeps every member in a list, and takes a damaged header for the end of the archive.
Its parser of a single header is used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from datasets.runtime.errors import ReplayError
from datasets.sources.decompress import BLOCK_BYTES

MAX_NAME_BYTES = 1 << 20
"""Largest long name or pax header that is read."""
MAGIC = slice(257, 262), b"ustar"
"""Where a header has it, and what."""
SPARSE_MORE, SPARSE_MORE_AGAIN = 482, 504
"""Bytes of a header and of its continuation that tell whether a (further) continuation follows (GNU tar)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One member."""

    name: str
    type: bytes
    """As in `tarfile`: REGTYPE and so on; GNUTYPE_SPARSE for every form of sparse file."""
    num_bytes: int
    start: int
    """Where its bytes begin; the stream stands there when the header is given."""


class TarStream:
    """A tar's bytes from the start, by reading or, where that is possible, by seeking over what is not needed."""

    def __init__(self, file: BinaryIO, num_bytes: int | None) -> None:
        """Args:
        num_bytes: of a file that can be sought in; None of a stream.
        """
        self._file = file
        self._num_bytes = num_bytes
        self.position = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        content = self._file.read(size)
        self.position += len(content)
        return content

    def read_all(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            ReplayError: code `unopenable`; there are fewer.
        """
        content = self.read(size)
        if len(content) < size:
            raise cut_off()
        return content

    def skip_to(self, position: int) -> None:
        """Go on to a later position.

        Raises:
            ReplayError: code `unopenable`; the archive ends before it.
        """
        if self._num_bytes is not None:
            if position > self._num_bytes:
                raise cut_off()
            self._file.seek(position)
            self.position = position
        while self.position < position:
            if not self.read(min(BLOCK_BYTES, position - self.position)):
                raise cut_off()


def cut_off() -> ReplayError:
    """The fault of an archive that ends too early."""
    return ReplayError("unopenable", "the archive is cut off")


class _Extension:
    """What stands before a header and belongs to it: a long name, pax fields."""

    TYPES = (
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
    )  # fmt: skip

    def __init__(self) -> None:
        self._name: bytes | None = None
        self._fields: dict[bytes, bytes] = {}

    def read(self, info: tarfile.TarInfo, stream: TarStream) -> None:
        """Take a header that is an extension, and its content."""
        end = stream.position + whole_blocks(info.size)
        content = stream.read_all(min(info.size, MAX_NAME_BYTES))
        if info.type == tarfile.GNUTYPE_LONGNAME:
            self._name = content.rstrip(b"\0")
        elif info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._fields = _pax_fields(content)
        stream.skip_to(end)

    def apply(self, info: tarfile.TarInfo) -> None:
        """Correct the header to which it belongs."""
        name = self._fields.get(b"path", self._name)
        if name is not None:
            info.name = name.decode("utf-8", "surrogateescape")
        if b"size" in self._fields:
            info.size = int(self._fields[b"size"])
            if info.size < 0:  # or the walk would go backwards, for ever
                raise ReplayError("unopenable", "a member's size is negative")
        if any(key.startswith(b"GNU.sparse.") for key in self._fields):
            info.type = tarfile.GNUTYPE_SPARSE


def headers(stream: TarStream, faults: list[tuple[str, str]]) -> Iterator[Header]:
    """All members in order. The stream may be read between two of them.

    Args:
        faults: gets the rejection of the first damaged header; the walk goes on at the next that is whole.
    Raises:
        ReplayError: code `unopenable`; it is no tar, or cut off.
    """
    extension = _Extension()
    while (found := _next_header(stream, faults)) is not None:
        info, block, is_whole = found
        if not is_whole:
            extension = _Extension()
        if info.type in _Extension.TYPES:
            extension.read(info, stream)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_map(stream, block)
        extension.apply(info)
        extension = _Extension()
        start = stream.position
        yield Header(name=info.name, type=info.type, num_bytes=info.size, start=start)
        has_content = info.type in tarfile.REGULAR_TYPES or info.type not in tarfile.SUPPORTED_TYPES
        stream.skip_to(start + (whole_blocks(info.size) if has_content else 0))


def whole_blocks(num_bytes: int) -> int:
    """Bytes that a member of that size takes."""
    return -(-num_bytes // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _next_header(stream: TarStream, faults: list[tuple[str, str]]) -> tuple[tarfile.TarInfo, bytes, bool] | None:
    """A header, its block, and whether it stood where it should; None at the end mark."""
    is_lost = False
    while True:
        at = stream.position
        block = stream.read(tarfile.BLOCKSIZE)
        if is_lost and not block:
            return None
        if len(block) < tarfile.BLOCKSIZE:
            raise cut_off()
        if is_lost and block[MAGIC[0]] != MAGIC[1]:
            continue
        if not is_lost and not any(block):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if info.size < 0:
                raise tarfile.HeaderError("negative size")
            return info, block, not is_lost
        except tarfile.HeaderError as error:
            if at == 0:
                raise ReplayError("unopenable", "the archive does not begin as a tar does") from error
            if not faults:
                faults.append(("unopenable", f"the archive has a damaged header at byte {at}"))
            is_lost = True


def _pax_fields(content: bytes) -> dict[bytes, bytes]:
    """Records of the form "length key=value\\n", the length counting all of itself."""
    fields: dict[bytes, bytes] = {}
    while content:
        length, space, record = content.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(content):
            break
        key, _, value = record[: int(length) - len(length) - 2].partition(b"=")
        fields[key] = value
        content = content[int(length) :]
    return fields


def _skip_sparse_map(stream: TarStream, block: bytes) -> None:
    more = block[SPARSE_MORE]
    while more:
        more = stream.read_all(tarfile.BLOCKSIZE)[SPARSE_MORE_AGAIN]
