"""Checkpoints at a URI: object storage, or any other filesystem of pyarrow.

Object storage cannot rename. The files get their final names at once, meta.json last; a folder without meta.json is not
a checkpoint. Deletion begins with meta.json.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datasets.runtime.remote_folder import RemoteFolder
from wm.checkpoints.files import META_FILE, CheckpointName
from wm.checkpoints.local_store import LocalStore
from wm.checkpoints.store import PROBE_FILE, CheckpointStore


class RemoteStore(CheckpointStore):
    """A folder of an object storage, or of any filesystem that pyarrow opens."""

    retry_s = 120.0

    def __init__(self, uri: str, request_retry_s: float = 0.0) -> None:
        """
        Args:
            request_retry_s: how long each request is tried again while the server cannot be reached.
        Raises:
            UserError: the scheme is unknown.
            OSError: the server cannot be reached.
        """
        self._folder = RemoteFolder(uri, request_retry_s)
        self.location = self._folder.location
        self._folder.filesystem()

    def read(self, path: str) -> bytes:
        return self._folder.read(path)

    def commit(self, name: CheckpointName, files: Iterable[tuple[str, bytes]]) -> None:
        try:
            for file_name, content in files:
                self._folder.write(f"{name}/{file_name}", content)
        except BaseException:
            with suppress(OSError):
                self.remove(name)
            raise

    def remove(self, name: CheckpointName) -> None:
        self._folder.delete(f"{name}/{META_FILE}")
        self._folder.delete_folder(str(name))

    def prepare(self) -> None:
        self._folder.write(PROBE_FILE, b"?")
        self._folder.delete(PROBE_FILE)
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

    def _folders(self) -> dict[CheckpointName, bool]:
        found: dict[CheckpointName, bool] = {}
        for path in self._folder.versions():
            folder, _, file_name = path.rpartition("/")
            name = CheckpointName.parse(folder.rpartition("/")[2])
            if name is not None:
                found[name] = found.get(name, False) or file_name == META_FILE
        return found


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for downloads that is deleted at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="wm-checkpoints-")
