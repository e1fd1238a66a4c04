"""Files behind URIs, opened and listed by pyarrow or else by fsspec: the only file that knows both.

A location is a URI whose path is percent-encoded, with its credentials and options; other processes can open it as it
stands.
"""

from __future__ import annotations

import errno
import io
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import pyarrow as pa
from pyarrow import fs

from datasets.runtime.errors import UserError
from datasets.runtime.stored_file import StoredFile

URI = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?")
GCS_SCHEMES = ("gs", "gcs")
GCS_RETRY_S = 30
"""Seconds for which a request to a bucket is tried again; pyarrow's own default is a quarter of an hour."""
WEB_SCHEMES = ("http", "https")
"""Schemes whose whole URI, options included, is what names the file."""


class RemoteFile(io.RawIOBase):
    """A remote file as Python reads files; whatever its library raises becomes an OSError."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._num_bytes = _as_os_error(file.size)
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes: by range requests."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set where the next read begins."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with one range request."""
        content = self.read_at(self._position, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def read_at(self, offset: int, size: int) -> bytes:
        """A range, shorter where the file ends earlier; threads may share the file."""
        size = min(size, max(0, self._num_bytes - offset))
        return _as_os_error(self._file.read_at, size, offset) if size else b""


def _as_os_error(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except OSError:
        raise
    except Exception as error:  # each fsspec library has exceptions of its own
        raise OSError(f"{type(error).__name__}: {error}") from error


def is_remote(location: str) -> bool:
    """Whether a location is a URI."""
    return URI.match(location) is not None


def open_remote(location: str) -> RemoteFile:
    """Open a URI.

    Raises:
        OSError: it cannot be opened.
    """
    filesystem, path = resolve_uri(location)
    return RemoteFile(_as_os_error(filesystem.open_input_file, path))


def stat_remote(location: str) -> tuple[bool, StoredFile]:
    """Whether a URI names a folder, and what is known of it.

    Raises:
        FileNotFoundError: it names nothing.
        OSError: it cannot be reached.
        UserError: its scheme is unknown.
    """
    filesystem, path = resolve_uri(location)
    info = _as_os_error(filesystem.get_file_info, path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return info.type == fs.FileType.Directory, _remote_file(location, info)


def list_remote(location: str) -> list[tuple[StoredFile, bool]]:
    """Files and folders (True) in a folder, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    infos = _list(location, recursive=False)
    infos.sort(key=lambda info: info.base_name)
    return [
        (_remote_file(_below(location, info.base_name), info), info.type == fs.FileType.Directory) for info in infos
    ]


def list_tree(location: str) -> list[tuple[str, StoredFile]]:
    """All files below a folder with their paths from there, in the order of a walk folder by folder.

    For Google's storage alone, of whose folders pyarrow lists only those that someone made; takes all into memory.

    Raises:
        OSError: it cannot be listed.
    """
    base = resolve_uri(location)[1].rstrip("/") + "/"
    infos = [info for info in _list(location, recursive=True) if info.type == fs.FileType.File]
    infos.sort(key=lambda info: info.path.split("/"))
    names = [info.path.removeprefix(base) for info in infos]
    return [(name, _remote_file(_below(location, name), info)) for name, info in zip(names, infos, strict=True)]


def is_listed_whole(location: str) -> bool:
    """Whether a folder is to be listed by `list_tree`."""
    return _parts(location)["scheme"] in GCS_SCHEMES


def _list(location: str, *, recursive: bool) -> list[fs.FileInfo]:
    filesystem, path = resolve_uri(location)
    return _as_os_error(filesystem.get_file_info, fs.FileSelector(path, recursive=recursive))


def _remote_file(location: str, info: fs.FileInfo) -> StoredFile:
    match = _parts(location)
    host = match["authority"].rpartition("@")[2]
    path = unquote(match["path"]).strip("/")
    return StoredFile(
        location=location,
        identity=f"{match['scheme']}://{host}/{path}".rstrip("/"),
        name=path.rsplit("/", 1)[-1] or host,
        num_bytes=info.size or 0,
        mtime_ns=info.mtime_ns or 0,
    )


def _below(location: str, name: str) -> str:
    path, mark, query = location.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"


def resolve_uri(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the path by which it knows the file.

    Raises:
        UserError: the scheme is unknown, or needs a package that is not there.
        OSError: the filesystem cannot be reached.
    """
    match = _parts(location)
    filesystem, base = _connect(*_root_of(location))
    if match["scheme"] in WEB_SCHEMES:
        return filesystem, location
    below = unquote(match["path"]).strip("/")
    return filesystem, f"{base.rstrip('/')}/{below}" if below else base


def _parts(location: str) -> re.Match[str]:
    match = URI.fullmatch(location)
    assert match is not None
    return match


def _root_of(location: str) -> tuple[str, str]:
    """Scheme, and the URI of what the scheme's library connects to: bucket or host, credentials, options."""
    match = _parts(location)
    query = f"?{match['query']}" if match["query"] and match["scheme"] not in WEB_SCHEMES else ""
    return match["scheme"], f"{match['scheme']}://{match['authority']}{query}"


@lru_cache(maxsize=16)
def _connect(scheme: str, root: str) -> tuple[fs.FileSystem, str]:
    if scheme in GCS_SCHEMES and "retry_limit_seconds" not in root:
        root += f"{'&' if '?' in root else '?'}retry_limit_seconds={GCS_RETRY_S}"
    try:
        return fs.FileSystem.from_uri(root)
    except ImportError as error:
        raise UserError(f"{scheme}:// needs a package that is not installed: {error}") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error) and "not built" not in str(error):
            raise OSError(str(error)) from error
    try:
        found, base = fsspec.core.url_to_fs(root)
    except ImportError as error:
        raise UserError(f"{scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise UserError(
            f"source {scheme}://... is of an unknown scheme; expected a local path, or a URI that pyarrow or fsspec "
            "opens, such as s3:// or gs://"
        ) from error
    except Exception as error:  # a file system that wants more than an address
        raise OSError(f"{scheme}:// cannot be opened by its address alone") from error
    return fs.PyFileSystem(fs.FSSpecHandler(found)), base
