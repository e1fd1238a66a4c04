"""A folder on a disk or in a bucket: what a corpus needs of its storage, in one interface.

Paths are relative to the folder, with slashes. Every method may be called by several threads, and raises

- OSError where the storage cannot be reached or fails (an outage: try again later),
- FileNotFoundError where a file is missing,
- UserError where the bucket does not exist, or the credentials are missing or refused.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote, mistake_in


class FileInfo(NamedTuple):
    """A file of a folder."""

    path: str
    """From the folder, with slashes."""
    num_bytes: int
    version: str
    """Changes when the file is replaced: the ETag in a bucket; inode, size and time on a disk."""
    modified_s: float
    """Seconds since 1970, by the storage's clock."""


class Lock(Protocol):
    """A held lock."""

    def close(self) -> None:
        """Release the lock."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Folder(ABC):
    """A folder on a disk or in a bucket. Subfolders come into being with their files.

    Attributes:
        location: path or URI as messages show it, without credentials and options.
    """

    location: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Content of a file."""

    @abstractmethod
    def read_range(self, path: str, start: int, num_bytes: int) -> bytes:
        """A range of a file, shorter where the file ends earlier."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> None:
        """Create a file. Readers see all of it or nothing, and of several writers one succeeds.

        Raises:
            FileExistsError: the file exists with other content. With the same content it counts as created: in a
                bucket that may be an earlier attempt whose answer was lost.
        """

    @abstractmethod
    def replace(self, path: str, content: bytes) -> None:
        """Create or replace a file. Readers see the old content or the new one."""

    @abstractmethod
    def upload(self, source: Path, path: str, *, move: bool = False) -> None:
        """Create or replace a file with the content of one on this machine's disk. Readers see all of it or nothing.

        Args:
            move: delete the source afterwards; within one disk the file is renamed and not copied.
        """

    @abstractmethod
    def stream(self, path: str) -> Iterator[bytes]:
        """Content of a file in pieces of some MB."""

    @abstractmethod
    def info(self, path: str) -> FileInfo | None:
        """Size, version and time of a file; None if there is none."""

    @abstractmethod
    def list(self, below: str = "", *, hidden: bool = False) -> Iterator[FileInfo]:
        """All files below a subfolder, at any depth, sorted by path; nothing if it does not exist.

        Args:
            hidden: also files whose name begins with a dot: locks, and temporary files of killed processes.
        """

    @abstractmethod
    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; those that do not exist are passed over."""

    @abstractmethod
    def delete_below(self, below: str) -> None:
        """Delete a subfolder with all its files."""

    @abstractmethod
    def lock(self, path: str, owner: str, held_message: str) -> Lock:
        """Lock a file against other processes, on any machine.

        Args:
            owner: in a bucket, may take over at once the lock that a killed process with the same owner has left.
            held_message: of the error if another process holds the lock.
        Raises:
            UserError: another process holds the lock, or the storage supports no locks.
        """

    @abstractmethod
    def is_locked(self, path: str) -> bool:
        """Whether another process holds the lock, as far as can be seen without taking it."""

    def download(self, path: str, target: Path) -> None:
        """Copy a file to this machine's disk. After a kill the target is complete, or as it was before."""
        with temporary_beside(target) as temporary:
            with temporary.open("wb") as file:
                file.writelines(self.stream(path))
            temporary.replace(target)

    def exists(self, path: str) -> bool:
        """Whether there is a file of this name."""
        return self.info(path) is not None


@contextmanager
def temporary_beside(final: Path) -> Iterator[Path]:
    """A hidden name in the folder of a file, whose folder is created; what is left there is deleted."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def open_folder(location: str | Path) -> Folder:
    """The folder at a path or URI; nothing is connected to or created yet.

    Raises:
        UserError: the URI's scheme is unknown, or it names no bucket.
    """
    if mistake := mistake_in(location):
        raise UserError(mistake)
    if is_remote(str(location)):
        from datasets.runtime.storage.bucket_folder import BucketFolder  # not needed for a disk

        return BucketFolder(str(location))
    from datasets.runtime.storage.local_folder import LocalFolder

    return LocalFolder(Path(location))
