"""A folder in a bucket: S3, its many compatible servers, or Google Cloud Storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from datasets.runtime.storage.folder import FileInfo, Folder, Lock
from datasets.runtime.storage.object_store import RETRY_S, connect, reported_errors
from datasets.runtime.uris import without_credentials

PART_BYTES = 16 << 20
"""Larger files are uploaded in parts of this size."""
PARTS_AT_ONCE = 4
READ_BYTES = 4 << 20
DELETE_AT_ONCE = 1000
LOCK_RETRY_S = 10.0
"""Shorter than a lease, so that a renewal is tried again before the lock is lost."""


class VersionConflictError(Exception):
    """A file was replaced or deleted meanwhile."""


class BucketFolder(Folder):
    """A folder in a bucket. Connects when it is first used, in each process anew."""

    def __init__(self, uri: str, *, retry_s: float = RETRY_S) -> None:
        """
        Args:
            retry_s: how long a request is tried again.
        """
        self.uri, self.location, self._retry_s = uri, without_credentials(uri), retry_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _bucket_folder, (self.uri, self._retry_s)

    @cached_property
    def _store(self) -> Any:
        return connect(self.uri, retry_s=self._retry_s)

    def read(self, path: str) -> bytes:
        with reported_errors(self._at(path)):
            return bytes(obstore.get(self._store, path).bytes())

    def read_range(self, path: str, start: int, num_bytes: int) -> bytes:
        with reported_errors(self._at(path)):
            return bytes(obstore.get_range(self._store, path, start=start, length=num_bytes)) if num_bytes else b""

    def read_version(self, path: str) -> tuple[bytes, dict[str, str]]:
        """Content of a file and its version, for `replace_version`."""
        with reported_errors(self._at(path)):
            result = obstore.get(self._store, path)
            return bytes(result.bytes()), _version(result.meta)

    def create(self, path: str, content: bytes) -> None:
        with reported_errors(self._at(path), missing_is_bucket=True):
            try:
                obstore.put(self._store, path, content, mode="create")
                return
            except AlreadyExistsError:
                pass
        if self.read(path) != content:
            raise FileExistsError(f"{self._at(path)} exists")

    def replace(self, path: str, content: bytes) -> None:
        with reported_errors(self._at(path), missing_is_bucket=True):
            obstore.put(self._store, path, content, use_multipart=False)

    def replace_version(self, path: str, content: bytes, version: dict[str, str]) -> dict[str, str]:
        """Replace a file if it still has a version; returns the new version.

        Raises:
            VersionConflictError: it has another one, or was deleted.
        """
        mode: Any = version
        with reported_errors(self._at(path)):
            try:
                return _version(obstore.put(self._store, path, content, mode=mode))
            except (PreconditionError, FileNotFoundError) as error:
                raise VersionConflictError(self._at(path)) from error

    def upload(self, source: Path, path: str, *, move: bool = False) -> None:
        with reported_errors(self._at(path), missing_is_bucket=True):
            obstore.put(self._store, path, source, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        if move:
            source.unlink()

    def stream(self, path: str) -> Iterator[bytes]:
        with reported_errors(self._at(path)):
            for content in obstore.get(self._store, path).stream(min_chunk_size=READ_BYTES):
                yield bytes(content)

    def info(self, path: str) -> FileInfo | None:
        try:
            with reported_errors(self._at(path)):
                return _info(obstore.head(self._store, path))
        except FileNotFoundError:
            return None

    def list(self, below: str = "", *, hidden: bool = False) -> Iterator[FileInfo]:
        with reported_errors(self._at(below), missing_is_bucket=True):
            found = [_info(meta) for batch in obstore.list(self._store, below or None) for meta in batch]
        return iter(sorted(info for info in found if hidden or not info.path.rpartition("/")[2].startswith(".")))

    def delete(self, paths: Iterable[str]) -> None:
        everything = list(paths)
        for at in range(0, len(everything), DELETE_AT_ONCE):
            with reported_errors(self.location), suppress(FileNotFoundError):
                obstore.delete(self._store, everything[at : at + DELETE_AT_ONCE])

    def delete_below(self, below: str) -> None:
        self.delete(info.path for info in self.list(below, hidden=True))

    def lock(self, path: str, owner: str, held_message: str) -> Lock:
        from datasets.runtime.storage.lease import Lease  # imports this module

        return Lease(BucketFolder(self.uri, retry_s=LOCK_RETRY_S), path, owner, held_message)

    def is_locked(self, path: str) -> bool:
        from datasets.runtime.storage.lease import is_held

        return is_held(self, path)

    def _at(self, path: str) -> str:
        return f"{self.location}/{path}" if path else self.location


def _bucket_folder(uri: str, retry_s: float) -> BucketFolder:
    return BucketFolder(uri, retry_s=retry_s)


def _version(found: Any) -> dict[str, str]:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _info(meta: Any) -> FileInfo:
    version = meta["e_tag"] or meta["version"] or ""
    return FileInfo(meta["path"], meta["size"], version.strip('"'), meta["last_modified"].timestamp())
