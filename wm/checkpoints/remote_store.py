"""Checkpoints at a URI: object storage, or any other filesystem of pyarrow.

Object storage cannot rename. The files get their final names at once, meta.json last; a folder without meta.json is not
a checkpoint. Deletion begins with meta.json.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from datasets.runtime.object_storage import resolve_uri
from datasets.runtime.uris import without_credentials
from wm.checkpoints.files import META_FILE, CheckpointName
from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.store import PROBE_FILE, CheckpointStore

TEMPORARY_SUFFIX = ".tmp"


class RemoteStore(CheckpointStore):
    """A folder of an object storage, or of any filesystem that pyarrow opens."""

    def __init__(self, uri: str) -> None:
        """
        Raises:
            UserError: the scheme is unknown.
            OSError: the server cannot be reached.
        """
        self._uri, self.location = uri, without_credentials(uri)
        self._files, self._root = resolve_uri(uri)
        # S3 and Google Cloud Storage have no folders and write objects atomically; other filesystems may do neither.
        self._has_folders = not isinstance(self._files, fs.S3FileSystem | fs.GcsFileSystem)

    def read(self, path: str) -> bytes:
        with self._files.open_input_file(f"{self._root}/{path}") as file:
            return file.read()

    def commit(self, name: CheckpointName, files: Iterable[tuple[str, bytes]]) -> None:
        try:
            for file_name, content in files:
                self._write(f"{name}/{file_name}", content)
        except BaseException:
            with suppress(OSError):
                self.remove(name)
            raise

    def remove(self, name: CheckpointName) -> None:
        folder = f"{self._root}/{name}"
        with _any_error_as_os_error():
            if self._files.get_file_info(f"{folder}/{META_FILE}").type == fs.FileType.File:
                self._files.delete_file(f"{folder}/{META_FILE}")
            self._files.delete_dir(folder)

    def prepare(self) -> None:
        self._write(PROBE_FILE, b"?")
        with _any_error_as_os_error():
            self._files.delete_file(f"{self._root}/{PROBE_FILE}")
        for name, is_committed in self._folders().items():
            if not is_committed:
                self.remove(name)

    def local_path(self, name: CheckpointName | None, *, verify: bool) -> Path:
        local = LocalStore(Path(_scratch().name) / hashlib.blake2b(self.location.encode(), digest_size=8).hexdigest())
        local_name = name or CheckpointName(0)
        if local_name in local.names():  # an earlier download, which may be outdated
            local.remove(local_name)
        local.commit(local_name, self.verified_files(name))
        return local.root / str(local_name)

    def _write(self, path: str, content: bytes) -> None:
        final = f"{self._root}/{path}"
        temporary = f"{final}{TEMPORARY_SUFFIX}" if self._has_folders else final
        with _any_error_as_os_error():
            if self._has_folders:
                self._files.create_dir(final.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(temporary) as file:
                file.write(content)
            if temporary != final:
                self._files.move(temporary, final)

    def _folders(self) -> dict[CheckpointName, bool]:
        with _any_error_as_os_error():
            infos = self._files.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        found: dict[CheckpointName, bool] = {}
        for info in infos:
            folder, _, file_name = info.path.rpartition("/")
            name = CheckpointName.parse(folder.rpartition("/")[2])
            if name is not None and info.type == fs.FileType.File:
                found[name] = found.get(name, False) or file_name == META_FILE
        return found


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for downloads that is deleted at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="wm-checkpoints-")


@contextmanager
def _any_error_as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # pyarrow's own exceptions are no OSError
        raise OSError(f"{type(error).__name__}: {error}") from error
