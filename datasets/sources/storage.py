"""Opens and reads files by location: a local path, or a URI (`datasets.runtime.object_storage`)."""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote

from datasets.runtime.errors import ReplayError
from datasets.runtime.stored_file import StoredFile, storable_name
from datasets.runtime.uris import URI, is_remote
from datasets.sources.read_ahead import ReadAhead
from datasets.sources.read_errors import is_transient, rejection_of

if TYPE_CHECKING:
    from datasets.runtime.object_storage import RemoteFile

T = TypeVar("T")

BUFFER_BYTES = 1 << 20
RETRY_AFTER_S = (0.5, 3.0)
"""Pauses before another attempt after a transient error."""
MAX_FAILURES = 4
"""Reads in a row that fail in spite of retries. From then on each is tried once, until one succeeds: on a disk that is
gone, 10,000 inputs would take 10 hours of pauses."""


def local_path(source: str) -> str:
    """Path of a local source, without file://."""
    match = URI.fullmatch(source)
    return unquote(match["path"]) if match is not None and match["scheme"] == "file" else source


def retry_transient(location: str, read: Callable[[], T], reopen: Callable[[], None] = lambda: None) -> T:
    """Call `read` until it succeeds, at most once more than RETRY_AFTER_S has pauses.

    Args:
        location: of the file that is read.
        reopen: called before each retry.
    Raises:
        OSError: the file itself is at fault, or does not exist.
        ReplayError: code UNREACHABLE; every attempt failed with a transient error.
    """
    for pause_s in (*(RETRY_AFTER_S if _Failures.in_a_row < MAX_FAILURES else ()), None):
        try:
            content = read()
        except FileNotFoundError:
            raise
        except OSError as error:
            if not is_transient(error, location):
                raise
            if pause_s is None or isinstance(error, PermissionError):
                _Failures.in_a_row += 1
                raise ReplayError(*rejection_of(error, location)) from error
            time.sleep(pause_s)
            reopen()
        else:
            _Failures.in_a_row = 0
            return content
    raise AssertionError("the last attempt returns or raises")


class _Failures:
    """Of this process."""

    in_a_row = 0


class SourceFile(io.RawIOBase):
    """A local or remote file, read from any position; transient errors are retried on a new connection."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._position = 0
        self._file = retry_transient(location, lambda: _open_stream(location))

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position of the next read."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.num_bytes}[whence]
        if start + offset < 0:
            raise ValueError("negative seek position")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Read from the position into the buffer."""
        content = retry_transient(self._location, lambda: self._file.read_at(self._position, len(buffer)), self._reopen)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _reopen(self) -> None:
        try:
            file = _open_stream(self._location)
        except OSError:  # the next attempt reads from the old one and reports its error
            return
        self._file.close()
        self._file = file

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


def open_file(location: str, buffer_bytes: int = BUFFER_BYTES) -> BinaryIO:
    """Open a file for reading, seekable. Anything but a regular file is refused, since a pipe could block forever.

    Raises:
        OSError: it cannot be opened.
        ReplayError: code `unopenable`; it is no regular file.
    """
    return cast("BinaryIO", io.BufferedReader(SourceFile(location), buffer_bytes))


class _LocalFile:
    """A regular local file, read by position."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        self.num_bytes = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ReplayError("unopenable", "not a regular file")

    def read_at(self, offset: int, size: int) -> bytes:
        """A range, shorter where the file ends earlier."""
        pieces = []
        longest = max(BUFFER_BYTES, self.num_bytes)  # the size asked for may be the limit of any replay
        while size > 0 and (piece := os.pread(self._descriptor, min(size, longest), offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _open_unbuffered(location: str) -> _LocalFile | RemoteFile:
    if not is_remote(location):
        return _LocalFile(location)
    from datasets.runtime.object_storage import open_remote  # pyarrow; not needed by processes that read local files

    return open_remote(location)


def _open_stream(location: str) -> _LocalFile | ReadAhead:
    file = _open_unbuffered(location)
    return file if isinstance(file, _LocalFile) else ReadAhead(file)


def read_range(location: str, offset: int, size: int) -> bytes:
    """Bytes of a file; fewer where it ends earlier.

    Raises:
        OSError: it cannot be read.
    """
    if is_remote(location):
        return _cached_remote(location).read_at(offset, size)
    with closing(_LocalFile(location)) as file:
        return file.read_at(offset, size)


def read_file(location: str, limit: int) -> bytes:
    """All of a file, at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
    """
    with closing(_open_unbuffered(location)) as file:
        return file.read_at(0, limit)


@lru_cache(maxsize=4)
def _cached_remote(location: str) -> _LocalFile | RemoteFile:
    """An open archive whose members are read one by one: opening costs a request of its own."""
    return _open_unbuffered(location)


def close_cached_files() -> None:
    """Open remote archives anew at the next read: a connection may be broken."""
    _cached_remote.cache_clear()


def local_file(path: str) -> StoredFile:
    """Identity, size and time of a local file.

    Raises:
        OSError: it does not exist or is not accessible.
    """
    status = os.stat(path)
    return StoredFile(
        location=os.path.abspath(path),
        identity=os.path.realpath(path),
        name=storable_name(os.path.basename(os.path.abspath(path))),
        num_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )


def sibling_location(location: str, levels: int, name: str) -> str:
    """Path or URI of a file in the folder that lies `levels` above a file."""
    if not is_remote(location):
        return "/".join([*location.split("/")[:-levels], name])
    path, mark, query = location.partition("?")
    return "/".join([*path.split("/")[:-levels], name]) + mark + query
