"""Where a run lives: a folder on a disk or a shared file system, or object storage.

Small files are written as wholes, to the run itself. Object storage cannot append: files that grow (the log, curves,
results per game) are written by rank 0 to `folder`. On a disk that is the run's own folder. For object storage it is a
folder on rank 0's machine, and a thread uploads what changed (see `wm.runs.mirror`).
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyarrow import fs

from datasets.runtime.durable_files import replace_file
from datasets.runtime.file_lock import exclusive_lock, is_locked
from datasets.runtime.storage.folder import Lock
from datasets.runtime.uris import is_remote


class RunFiles(ABC):
    """The files of a run by their names, on whatever storage.

    Attributes:
        location: folder or URI as messages show it, without credentials.
    """

    location: str

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Local folder for files that grow. Only rank 0 uses it, between `open_folder` and `close_folder`."""

    @abstractmethod
    def check(self) -> None:
        """Fail within seconds if the storage cannot be reached.

        Raises:
            OSError: it cannot.
        """

    @abstractmethod
    def create(self) -> None:
        """Create the run's own folder, where there are folders.

        Raises:
            OSError: it cannot be created.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Newest content of a file.

        Raises:
            FileNotFoundError: no such file.
            OSError: it cannot be read at the moment.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file: a kill leaves the old content or the new one.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def write_in_place(self, name: str, content: bytes) -> None:
        """Create a file, or change its content without replacing the file.

        Clients of a network file system see the change when they open the file. They may not see for half a minute that
        a file was created or replaced.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def append(self, name: str, content: bytes) -> None:
        """Append to a file that any process of the run may append to; returns when the storage has it.

        Raises:
            OSError: it cannot be written.
        """

    @abstractmethod
    def read_appended(self, name: str) -> bytes:
        """Everything that was appended to a file, in order; empty if there is no such file.

        Raises:
            OSError: it cannot be read at the moment.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file; nothing happens if there is none.

        Raises:
            OSError: it cannot be deleted.
        """

    @abstractmethod
    def names(self, folder: str = "") -> list[str]:
        """Names of all entries of the run's folder or of one in it, those of folders included; empty if there are none.

        Raises:
            OSError: they cannot be listed.
        """

    @abstractmethod
    def version(self, name: str) -> tuple[int, ...]:
        """Numbers that change with a file's content; empty if there is no such file, or it cannot be read now."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file.

        Raises:
            OSError: that cannot be found out at the moment.
        """

    @abstractmethod
    def is_locked(self, name: str) -> bool:
        """Whether another process holds the lock of a name; never takes it. False for locks of this process on a disk.

        In object storage a killed holder's lock counts for the rest of its lease, by this machine's clock.

        Raises:
            OSError: that cannot be found out at the moment.
        """

    @abstractmethod
    def lock(self, name: str, owner: str, held_message: str) -> Lock:
        """Lock the run against other processes until the lock is closed.

        Args:
            owner: takes over the lock of an earlier process with the same owner.
            held_message: message of the error if another owner holds the lock.
        Raises:
            UserError: another owner holds the lock.
            OSError: the lock cannot be read or written.
        """

    @abstractmethod
    def open_folder(self, continued: Iterable[str]) -> None:
        """Create `folder` with the files that an earlier process has left; nothing if this object did so before.

        Args:
            continued: names of files that are appended to.
        Raises:
            OSError: they cannot be read.
        """

    @abstractmethod
    def upload(self) -> None:
        """Return when the run's storage holds all changes made in `folder` so far.

        Raises:
            OSError: it does not.
        """

    @abstractmethod
    def close_folder(self) -> None:
        """Upload what is left in `folder`, for some seconds if the storage is away; no error is raised."""

    @abstractmethod
    def arrow_path(self) -> tuple[fs.FileSystem | None, str]:
        """pyarrow's filesystem and the run's path in it, with credentials and endpoint; None for a local path.

        Raises:
            OSError: the server cannot be reached.
        """

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file; empty if it is missing or damaged.

        Raises:
            OSError: it cannot be read at the moment.
        """
        try:
            content = json.loads(self.read(name))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Create or replace a JSON file.

        Raises:
            OSError: it cannot be written.
        """
        self.write(name, json.dumps(content, indent=1).encode())

    def path_of(self, name: str) -> str:
        """A file's path or URI as messages show it."""
        return f"{self.location}/{name}"


def open_run_files(location: Path | str, retry_s: float = 0.0) -> RunFiles:
    """The files of the run at a path or URI; touches no file and no server.

    Args:
        retry_s: how long a request to object storage that cannot be reached is tried again.
    """
    if not is_remote(str(location)):
        return LocalRunFiles(Path(location))
    from wm.runs.remote_run_files import RemoteRunFiles

    return RemoteRunFiles(str(location), retry_s)


class LocalRunFiles(RunFiles):
    """A run in a folder of a disk or of a shared file system."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.location = folder, str(folder)

    @property
    def folder(self) -> Path:
        return self._folder

    def check(self) -> None:
        pass

    def create(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        replace_file(self._folder / name, content)

    def write_in_place(self, name: str, content: bytes) -> None:
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, content)
            os.ftruncate(descriptor, len(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def append(self, name: str, content: bytes) -> None:
        path = self._folder / name
        with path.open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def read_appended(self, name: str) -> bytes:
        try:
            return self.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return b""

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def names(self, folder: str = "") -> list[str]:
        path = self._folder / folder
        return sorted(entry.name for entry in path.iterdir()) if path.exists() else []

    def version(self, name: str) -> tuple[int, ...]:
        try:
            facts = (self._folder / name).stat()
        except OSError:
            return ()
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    def exists(self, name: str) -> bool:
        return (self._folder / name).exists()

    def is_locked(self, name: str) -> bool:
        return is_locked(self._folder / name)

    def lock(self, name: str, owner: str, held_message: str) -> Lock:
        return exclusive_lock(self._folder / name, held_message)

    def open_folder(self, continued: Iterable[str]) -> None:
        pass

    def upload(self) -> None:
        pass

    def close_folder(self) -> None:
        pass

    def arrow_path(self) -> tuple[fs.FileSystem | None, str]:
        return None, str(self._folder)
