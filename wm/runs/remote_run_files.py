"""A run in object storage. Files that grow are on the machine of rank 0 and are uploaded (`wm.runs.mirror`)."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from pyarrow import fs

from datasets.runtime.errors import UserError
from datasets.runtime.remote_folder import RemoteFolder
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.lease import LEASE_SECONDS
from wm.runs.mirror import Mirror
from wm.runs.run_files import Lock, RunFiles


class RemoteRunFiles(RunFiles):
    """A run in object storage."""

    def __init__(self, uri: str, retry_s: float = 0.0) -> None:
        self._uri, self._store = uri, RemoteFolder(uri, retry_s)
        self.location = self._store.location
        self._mirror = Mirror(self._store)

    @property
    def folder(self) -> Path:
        return self._mirror.folder

    def check(self) -> None:
        self._store.check()

    def create(self) -> None:
        pass

    def read(self, name: str) -> bytes:
        not_uploaded = self._mirror.read(name)
        return self._store.read(name) if not_uploaded is None else not_uploaded

    def write(self, name: str, content: bytes) -> None:
        self._store.write(name, content)

    def write_in_place(self, name: str, content: bytes) -> None:
        self._store.write(name, content)

    def append(self, name: str, content: bytes) -> None:
        self._store.write(f"{name}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", content)

    def read_appended(self, name: str) -> bytes:
        return b"".join(self._store.read(path) for path in self._store.versions(name))

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def names(self, folder: str = "") -> list[str]:
        start = len(f"{folder}/") if folder else 0
        stored = {path[start:].partition("/")[0] for path in self._store.versions(folder)}
        return sorted(stored | self._mirror.names(folder))

    def version(self, name: str) -> tuple[int, ...]:
        with contextlib.suppress(OSError, UserError):
            return self._store.version(name) or ()
        return ()

    def exists(self, name: str) -> bool:
        return self._mirror.read(name) is not None or self._store.version(name) is not None

    def is_locked(self, name: str) -> bool:
        lease = self._store.version(name)
        return lease is not None and time.time() - lease.mtime_ns / 1e9 < LEASE_SECONDS

    def lock(self, name: str, owner: str, held_message: str) -> Lock:
        return BucketFolder(self._uri).lock(name, owner, held_message)

    def open_folder(self, continued: Iterable[str]) -> None:
        self._mirror.open(continued)

    def upload(self) -> None:
        self._mirror.upload()

    def close_folder(self) -> None:
        self._mirror.close()

    def arrow_path(self) -> tuple[fs.FileSystem | None, str]:
        return self._store.filesystem()
