"""A store of checkpoints, wherever it is: a local folder (`local_store`) or a URI (`remote_store`).

Every store commits a checkpoint as a whole: a kill or a power loss leaves all of it or nothing, and never damages a
checkpoint that was committed before.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets.runtime.errors import UserError
from wm.checkpoints.files import (
    CHECKSUMMED_FILES,
    CONFIG_FILE,
    META_FILE,
    CheckpointName,
    DamagedCheckpointError,
    check_content,
    read_meta,
)
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_stored

RUN_SUBFOLDER = "checkpoints"
"""Checkpoints of a run, within the run's folder."""
PROBE_FILE = ".writable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened checkpoint."""

    path: Path
    """Its folder on this machine."""
    location: str
    """Where it was found: the same folder, or a URI without its credentials."""
    config: RunConfig
    meta: dict[str, Any]

    @property
    def state(self) -> str:
        """The run's state at this checkpoint, see `wm.runs.run`: `training`, `trained` or `finished`."""
        return "finished" if self.meta.get("finished") else "trained" if self.meta.get("trained") else "training"


class NewestIntact(NamedTuple):
    """Result of `CheckpointStore.newest_intact`."""

    checkpoint: Checkpoint | None
    damaged: list[str]
    """Why each newer checkpoint was skipped, one line each."""


class CheckpointStore(ABC):
    """A folder of checkpoints, or a single checkpoint (whose name is then None).

    Attributes:
        location: the folder or URI as messages show it, without credentials.
        retry_s: seconds for which a write that the run waits for is tried again.
    """

    location: str
    retry_s: float = 0.0

    @abstractmethod
    def _folders(self) -> dict[CheckpointName, bool]:
        """Names in use, and whether that checkpoint is committed; empty if the store's folder does not exist.

        Raises:
            OSError: the folder cannot be listed.
        """

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Content of a file, by its path within the store.

        Raises:
            FileNotFoundError: no such file.
            OSError: the file cannot be read.
        """

    @abstractmethod
    def commit(self, name: CheckpointName, files: Iterable[tuple[str, bytes]]) -> None:
        """Write a checkpoint, meta.json last.

        Raises:
            OSError: the checkpoint cannot be written; it is removed completely.
        """

    @abstractmethod
    def remove(self, name: CheckpointName) -> None:
        """Delete a checkpoint; a kill leaves all of it or nothing."""

    @abstractmethod
    def prepare(self) -> None:
        """Create the folder, delete what killed writers left, and test that files can be written.

        Raises:
            OSError: nothing can be written here.
        """

    @abstractmethod
    def local_path(self, name: CheckpointName | None, *, verify: bool) -> Path:
        """Folder of a checkpoint on this machine. A remote checkpoint is downloaded and always verified.

        Args:
            verify: compare all files with their checksums.
        Raises:
            DamagedCheckpointError, UserError, OSError: see `verified_files`.
        """

    def names(self) -> list[CheckpointName]:
        """Committed checkpoints, oldest first.

        Raises:
            OSError: the folder cannot be listed.
        """
        return sorted(name for name, is_committed in self._folders().items() if is_committed)

    def unused_name(self, targets_seen: int) -> CheckpointName:
        """The first name at a number of targets that is newer than all in use, committed or not."""
        revisions = [name.revision for name in self._folders() if name.targets_seen == targets_seen]
        return CheckpointName(targets_seen, max(revisions, default=-1) + 1)

    def path_of(self, name: CheckpointName | None, file_name: str = "") -> str:
        """Path of a checkpoint or of one of its files within the store."""
        return "/".join(part for part in ("" if name is None else str(name), file_name) if part)

    def location_of(self, name: CheckpointName | None) -> str:
        """A checkpoint as messages show it."""
        return self.location if name is None else f"{self.location}/{name}"

    def verified_files(self, name: CheckpointName | None) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file of a checkpoint, compared with its checksum; meta.json last.

        Raises:
            DamagedCheckpointError: a file is missing or damaged.
            UserError: the checkpoint has another version or encoding.
            OSError: a file cannot be read at the moment.
        """
        content_of_meta = self._existing(name, META_FILE)
        meta = read_meta(content_of_meta, self.location_of(name))
        for file_name in CHECKSUMMED_FILES:
            content = self._existing(name, file_name)
            check_content(file_name, content, meta)
            yield file_name, content
        yield META_FILE, content_of_meta

    def verified_meta(self, name: CheckpointName | None) -> dict[str, Any]:
        """A checkpoint's meta.json, once all its files are verified (see `verified_files` for errors)."""
        ((_, content),) = deque(self.verified_files(name), maxlen=1)  # holds one file in memory at a time
        return read_meta(content, self.location)

    def open(self, name: CheckpointName | None, *, verify: bool = False) -> Checkpoint:
        """Open a checkpoint.

        Args:
            verify: compare all files with their checksums now; otherwise weights and resume.pt are compared when they
                are loaded.
        Raises:
            DamagedCheckpointError: a file is missing or damaged.
            UserError: the checkpoint has another version, encoding or config format, or cannot be reached.
        """
        location = self.location_of(name)
        with self.reading():
            path = self.local_path(name, verify=verify)
        try:
            meta = read_meta((path / META_FILE).read_bytes(), location)
            content = (path / CONFIG_FILE).read_bytes()
        except OSError as error:
            raise DamagedCheckpointError(reason_of(error)) from error
        check_content(CONFIG_FILE, content, meta)
        config = from_stored(json.loads(content), RunConfig, f"{location}/{CONFIG_FILE}")
        return Checkpoint(path=path, location=location, config=config, meta=meta)

    def newest_intact(self) -> NewestIntact:
        """The newest checkpoint whose files all match their checksums.

        Raises:
            UserError: the store cannot be reached, or the newest has another version, encoding or config format.
        """
        damaged = []
        with self.reading():
            names = self.names()
        for name in reversed(names):
            try:
                return NewestIntact(self.open(name, verify=True), damaged)
            except DamagedCheckpointError as error:
                damaged.append(f"checkpoint {self.location_of(name)} is damaged ({error})")
        return NewestIntact(None, damaged)

    def meta(self, name: CheckpointName | None) -> dict[str, Any]:
        """meta.json of a checkpoint, other files unread.

        Raises:
            DamagedCheckpointError, FileNotFoundError: it is damaged or missing.
            UserError: the checkpoint has another version or encoding.
        """
        return read_meta(self.read(self.path_of(name, META_FILE)), self.location_of(name))

    def newest_meta(self) -> dict[str, Any] | None:
        """meta.json of the newest checkpoint, other files unread; None if none can be read.

        Raises:
            UserError: the store cannot be reached, or the newest has another version or encoding.
        """
        with self.reading():
            for name in reversed(self.names()):
                try:
                    return self.meta(name)
                except (DamagedCheckpointError, FileNotFoundError):  # `newest_intact` reports it; or its run deleted it
                    continue
        return None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn an OSError into a user's error: the store cannot be reached."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.location} cannot be read ({reason_of(error)}); check that it can be reached"
            ) from error

    def _existing(self, name: CheckpointName | None, file_name: str) -> bytes:
        try:
            return self.read(self.path_of(name, file_name))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedCheckpointError(f"{file_name} is missing") from error


def reason_of(error: Exception) -> str:
    """Why something failed, in one short line that is the same each time it fails."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror and error.filename is not None:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
