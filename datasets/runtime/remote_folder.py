"""A folder behind a URI: object storage, or any other filesystem of pyarrow. Files are read and replaced as wholes."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from pyarrow import fs

from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import GCS_SCHEMES, REFUSAL, resolve_uri
from datasets.runtime.uris import with_option, without_credentials

TEMPORARY_SUFFIX = ".tmp"
CHECK_SECONDS = 5
RETRY_PAUSE_S = 1.0
_announced: set[str] = set()
"""Storage whose outage this process has announced."""

Method = TypeVar("Method", bound=Callable[..., Any])


def _through_outages(method: Method) -> Method:
    """A method of RemoteFolder that is tried again for its `retry_s`, unless the store refuses."""

    @functools.wraps(method)
    def call(self: RemoteFolder, *arguments: Any) -> Any:
        deadline = time.monotonic() + self.retry_s
        while True:
            try:
                found = method(self, *arguments)
            except FileNotFoundError:
                raise
            except OSError as error:
                if time.monotonic() >= deadline or REFUSAL.search(str(error)):
                    raise
                self._announce(error)
            else:
                _announced.discard(self.location)
                return found
            time.sleep(RETRY_PAUSE_S)

    return call  # pyrefly: ignore[bad-return]


class Version(NamedTuple):
    """Changes when a file's content does, but for changes of equal size within a second."""

    num_bytes: int
    mtime_ns: int


class RemoteFolder:
    """A folder behind a URI; threads may share it. Connects when it is first used.

    Every method raises OSError if the server cannot be reached or refuses, and UserError if the scheme is unknown.

    Attributes:
        location: the URI as messages show it, without credentials and options.
        retry_s: see `__init__`.
    """

    def __init__(self, uri: str, retry_s: float = 0.0) -> None:
        """
        Args:
            retry_s: how long a request is tried again while the server cannot be reached, after pyarrow's own tries.
        """
        self.uri, self.location, self.retry_s = uri, without_credentials(uri), retry_s

    @_through_outages
    def filesystem(self) -> tuple[fs.FileSystem, str]:
        """pyarrow's filesystem, and the folder's path in it."""
        with _any_error_as_os_error():
            return resolve_uri(self.uri)

    @_through_outages
    def check(self) -> None:
        """Raise OSError if the server cannot be reached: in seconds, where `retry_s` is 0; other calls try longer."""
        is_google = self.uri.startswith(tuple(f"{scheme}://" for scheme in GCS_SCHEMES))
        uri = with_option(self.uri, "retry_limit_seconds", CHECK_SECONDS) if is_google else self.uri
        with _any_error_as_os_error():
            files, root = resolve_uri(uri)
            files.get_file_info(f"{root}/.check")

    @_through_outages
    def read(self, path: str) -> bytes:
        """Content of a file.

        Args:
            path: from the folder, with slashes.
        Raises:
            FileNotFoundError: no such file.
        """
        files, root = self.filesystem()
        with _any_error_as_os_error(), files.open_input_file(f"{root}/{path}") as file:
            return file.read()

    @_through_outages
    def write(self, path: str, content: bytes) -> None:
        """Create or replace a file; readers see the old content or the new one."""
        files, root = self.filesystem()
        final = f"{root}/{path}"
        # S3 and Google Cloud Storage have no folders and write objects atomically; other filesystems may do neither.
        has_folders = not isinstance(files, fs.S3FileSystem | fs.GcsFileSystem)
        written = f"{final}{TEMPORARY_SUFFIX}" if has_folders else final
        with _any_error_as_os_error():
            if has_folders:
                files.create_dir(final.rpartition("/")[0], recursive=True)
            with files.open_output_stream(written) as file:
                file.write(content)
            if has_folders:
                files.move(written, final)

    @_through_outages
    def delete(self, path: str) -> None:
        """Delete a file; nothing happens if there is none."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            if files.get_file_info(f"{root}/{path}").type == fs.FileType.File:
                files.delete_file(f"{root}/{path}")

    @_through_outages
    def delete_folder(self, path: str) -> None:
        """Delete a folder in this folder and all files in it."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            files.delete_dir(f"{root}/{path}")

    @_through_outages
    def version(self, path: str) -> Version | None:
        """Size and time of a file; None if there is none."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            info = files.get_file_info(f"{root}/{path}")
        return _version(info) if info.type == fs.FileType.File else None

    @_through_outages
    def versions(self, below: str = "") -> dict[str, Version]:
        """Path from this folder, size and time of every file, in all folders below; sorted by path."""
        files, root = self.filesystem()
        selector = fs.FileSelector(f"{root}/{below}".rstrip("/"), recursive=True, allow_not_found=True)
        with _any_error_as_os_error():
            infos = files.get_file_info(selector)
        found = {info.path[len(root) + 1 :]: _version(info) for info in infos if info.type == fs.FileType.File}
        return dict(sorted(found.items()))

    def _announce(self, error: OSError) -> None:
        """Say once for an outage that requests are tried again."""
        if self.location not in _announced:
            _announced.add(self.location)
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            message = f"{self.location} cannot be reached ({reason}); trying again for {self.retry_s:.0f} s"
            print(message, file=sys.stderr, flush=True)


def _version(info: fs.FileInfo) -> Version:
    return Version(info.size or 0, info.mtime_ns or 0)


@contextmanager
def _any_error_as_os_error() -> Iterator[None]:
    """pyarrow's own exceptions are no OSError."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
