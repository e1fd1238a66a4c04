"""A folder behind a URI: object storage, or any other filesystem of pyarrow. Files are read and replaced as wholes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyarrow import fs

from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import GCS_SCHEMES, resolve_uri
from datasets.runtime.uris import with_option, without_credentials

TEMPORARY_SUFFIX = ".tmp"
CHECK_SECONDS = 5


class Version(NamedTuple):
    """Changes when a file's content does, but for changes of equal size within a second."""

    num_bytes: int
    mtime_ns: int


class RemoteFolder:
    """A folder behind a URI; threads may share it. Connects when it is first used.

    Every method raises OSError if the server cannot be reached or refuses, and UserError if the scheme is unknown.

    Attributes:
        location: the URI as messages show it, without credentials and options.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.location = uri, without_credentials(uri)

    def filesystem(self) -> tuple[fs.FileSystem, str]:
        """pyarrow's filesystem, and the folder's path in it."""
        with _any_error_as_os_error():
            return resolve_uri(self.uri)

    def check(self) -> None:
        """Raise OSError within seconds if the server cannot be reached; other calls try for longer."""
        is_google = self.uri.startswith(tuple(f"{scheme}://" for scheme in GCS_SCHEMES))
        uri = with_option(self.uri, "retry_limit_seconds", CHECK_SECONDS) if is_google else self.uri
        with _any_error_as_os_error():
            files, root = resolve_uri(uri)
            files.get_file_info(f"{root}/.check")

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

    def delete(self, path: str) -> None:
        """Delete a file; nothing happens if there is none."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            if files.get_file_info(f"{root}/{path}").type == fs.FileType.File:
                files.delete_file(f"{root}/{path}")

    def delete_folder(self, path: str) -> None:
        """Delete a folder in this folder and all files in it."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            files.delete_dir(f"{root}/{path}")

    def version(self, path: str) -> Version | None:
        """Size and time of a file; None if there is none."""
        files, root = self.filesystem()
        with _any_error_as_os_error():
            info = files.get_file_info(f"{root}/{path}")
        return _version(info) if info.type == fs.FileType.File else None

    def versions(self, below: str = "") -> dict[str, Version]:
        """Path from this folder, size and time of every file, in all folders below; sorted by path."""
        files, root = self.filesystem()
        selector = fs.FileSelector(f"{root}/{below}".rstrip("/"), recursive=True, allow_not_found=True)
        with _any_error_as_os_error():
            infos = files.get_file_info(selector)
        found = {info.path[len(root) + 1 :]: _version(info) for info in infos if info.type == fs.FileType.File}
        return dict(sorted(found.items()))


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
