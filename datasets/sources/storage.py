"""Files wherever they lie, by location: a local path, or a URI (`datasets.runtime.object_storage`)."""

from __future__ import annotations

import io
import os
import stat
from functools import lru_cache
from typing import BinaryIO, cast
from urllib.parse import unquote

from datasets.runtime.errors import ReplayError
from datasets.runtime.object_storage import URI, RemoteFile, is_remote, open_remote
from datasets.runtime.stored_file import StoredFile
from datasets.sources.names import readable

BUFFER_BYTES = 1 << 20


def local_path(source: str) -> str:
    """A local source's path: file:// is taken off."""
    match = URI.fullmatch(source)
    return unquote(match["path"]) if match is not None and match["scheme"] == "file" else source


def open_file(location: str, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
    """Open a file for reading, seekable. What is no regular file is refused rather than waited for.

    Raises:
        OSError: it cannot be opened.
        ReplayError: code `unopenable`; it is no regular file.
    """
    if is_remote(location):
        return cast("BinaryIO", io.BufferedReader(open_remote(location), buffer_bytes))
    return open(location, "rb", buffering=buffer_bytes, opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ReplayError("unopenable", "not a regular file")
    return descriptor


def read_range(location: str, offset: int, size: int) -> bytes:
    """Bytes of a file; fewer where it ends earlier.

    Raises:
        OSError: it cannot be read.
    """
    if is_remote(location):
        return _kept_open(location).read_at(offset, size)
    with open_file(location, buffer_bytes=0) as file:
        pieces = []
        while size > 0 and (piece := os.pread(file.fileno(), size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_file(location: str, num_bytes: int, limit: int) -> bytes:
    """All of a file, at most `limit` bytes.

    Args:
        num_bytes: its size when it was listed; it may have changed.
    Raises:
        OSError: it cannot be read.
    """
    if is_remote(location):
        return open_remote(location).read_at(0, limit)
    pieces = []
    with open_file(location, buffer_bytes=0) as file:
        while limit > 0 and (piece := file.read(min(limit, max(BUFFER_BYTES, num_bytes)))):
            pieces.append(piece)
            limit -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@lru_cache(maxsize=4)
def _kept_open(location: str) -> RemoteFile:
    """Archives whose members are read one by one: opening costs a request of its own."""
    return open_remote(location)


def forget_open_files() -> None:
    """Open remote archives anew: a connection may be broken."""
    _kept_open.cache_clear()


def local_file(path: str) -> StoredFile:
    """What the system says of a local file.

    Raises:
        OSError: it is gone or may not be seen.
    """
    found = os.stat(path)
    return StoredFile(
        location=os.path.abspath(path),
        identity=os.path.realpath(path),
        name=readable(os.path.basename(os.path.abspath(path))),
        num_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
    )


def sibling_location(location: str, levels: int, name: str) -> str:
    """Path or URI of a file in the folder that lies `levels` above a file."""
    if not is_remote(location):
        return "/".join([*location.split("/")[:-levels], name])
    path, mark, query = location.partition("?")
    return "/".join([*path.split("/")[:-levels], name]) + mark + query
