"""Files behind URIs, opened and listed by pyarrow: S3 (s3://), Google Cloud Storage (gs://) and what else it knows."""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from datasets.runtime.errors import UserError
from datasets.runtime.stored_file import StoredFile
from datasets.runtime.uris import child_uri, parse_uri, with_option

GCS_SCHEMES = ("gs", "gcs")
GCS_RETRY_S = 30
"""Seconds for which pyarrow retries a request to Google Cloud Storage; its default is 15 minutes."""
REFUSAL = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET"
    r"|PERMISSION_DENIED|UNAUTHENTICATED|HTTP status:? 40[0134]"
)
"""In errors of a store that answers, and refuses: wrong credentials, missing rights, no such bucket."""


class RemoteFile:
    """A remote file, read by range requests. Threads may share it."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.num_bytes: int = file.size()

    def read_at(self, offset: int, size: int) -> bytes:
        """A range, shorter where the file ends earlier."""
        size = min(size, max(0, self.num_bytes - offset))
        return self._file.read_at(size, offset) if size else b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_remote(location: str) -> RemoteFile:
    """Open a URI.

    Raises:
        OSError: it cannot be opened.
        UserError: its scheme is not supported.
    """
    filesystem, path = resolve_uri(location)
    return RemoteFile(filesystem.open_input_file(path))


def stat_remote(location: str) -> tuple[bool, StoredFile]:
    """Whether a URI names a folder, and its identity, size and time.

    Raises:
        FileNotFoundError: it does not exist.
        OSError: it cannot be reached.
        UserError: its scheme is not supported.
    """
    filesystem, path = resolve_uri(location)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return info.type == fs.FileType.Directory, _stored_file(location, info)


def list_remote(location: str) -> list[tuple[StoredFile, bool]]:
    """Files and folders (True) in a folder, sorted by name.

    Raises:
        OSError: it cannot be listed.
    """
    infos = _list(location, recursive=False)
    infos.sort(key=lambda info: info.base_name)
    return [
        (_stored_file(child_uri(location, info.base_name), info), info.type == fs.FileType.Directory) for info in infos
    ]


def list_tree(location: str) -> list[tuple[str, StoredFile]]:
    """All files below a folder with their paths from there, in the order of a walk folder by folder.

    Only for Google Cloud Storage (`needs_tree_listing`), since the whole listing is in memory.

    Raises:
        OSError: it cannot be listed.
    """
    base = resolve_uri(location)[1].rstrip("/") + "/"
    infos = [info for info in _list(location, recursive=True) if info.type == fs.FileType.File]
    infos.sort(key=lambda info: info.path.split("/"))
    names = [info.path.removeprefix(base) for info in infos]
    return [(name, _stored_file(child_uri(location, name), info)) for name, info in zip(names, infos, strict=True)]


def needs_tree_listing(location: str) -> bool:
    """Whether a folder is listed by `list_tree`: of Google's folders pyarrow lists only those created explicitly."""
    return parse_uri(location)["scheme"] in GCS_SCHEMES


def _list(location: str, *, recursive: bool) -> list[fs.FileInfo]:
    filesystem, path = resolve_uri(location)
    return filesystem.get_file_info(fs.FileSelector(path, recursive=recursive))


def _stored_file(location: str, info: fs.FileInfo) -> StoredFile:
    match = parse_uri(location)
    host = match["authority"].rpartition("@")[2]
    path = unquote(match["path"]).strip("/")
    return StoredFile(
        location=location,
        identity=f"{match['scheme']}://{host}/{path}".rstrip("/"),
        name=path.rsplit("/", 1)[-1] or host,
        num_bytes=info.size or 0,
        mtime_ns=info.mtime_ns or 0,
    )


def resolve_uri(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the path of the file in that filesystem.

    Raises:
        UserError: the scheme is not supported.
        OSError: the filesystem cannot be reached.
    """
    match = parse_uri(location)
    query = f"?{match['query']}" if match["query"] else ""
    filesystem, base = _connect(match["scheme"], f"{match['scheme']}://{match['authority']}{query}")
    below = unquote(match["path"]).strip("/")
    return filesystem, f"{base.rstrip('/')}/{below}" if below else base


@lru_cache(maxsize=16)
def _connect(scheme: str, root: str) -> tuple[fs.FileSystem, str]:
    """Connect to a bucket or host.

    Args:
        root: URI with credentials and options, without a path.
    """
    if scheme == "file":
        return fs.LocalFileSystem(), "/"
    if scheme in GCS_SCHEMES and "retry_limit_seconds" not in root:
        root = with_option(root, "retry_limit_seconds", GCS_RETRY_S)
    if scheme == "s3" and "allow_delayed_open" not in root:
        root = with_option(root, "allow_delayed_open", "true")  # a small file is one request instead of three
    try:
        return fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "nrecognized filesystem" not in str(error) and "not built" not in str(error):
            raise OSError(errno.EINVAL, str(error)) from error
        raise UserError(f"{scheme}://: unsupported URI scheme; expected a local path, s3:// or gs://") from error
