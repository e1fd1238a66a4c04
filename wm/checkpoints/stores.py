"""Where checkpoints lie: a folder on a disk, or a URI. Both commit a checkpoint as one and lose none that is whole.

On a disk a checkpoint is written into a dot-folder and renamed. Object storage cannot rename: there the files go to
their final names, meta.json last, and what has no meta.json does not exist. Deleting begins with meta.json.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pyarrow import fs

from datasets.runtime.durable_files import fsync_folder
from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import URI, is_remote, open_remote, resolve_uri
from wm.checkpoints.files import META_FILE, Name, parse_name

PROBE_FILE = ".writable"
ASIDE = ".aside"
"""Ends the name of a file that is being written."""


class Place(Protocol):
    """A folder of checkpoints."""

    shown: str
    """How messages name it: without credentials."""

    def names(self) -> list[Name]:
        """Committed checkpoints, oldest first; none where the folder does not exist.

        Raises:
            OSError: it cannot be listed.
        """
        ...

    def free_name(self, targets_seen: int) -> Name:
        """A name that nothing has, committed or not."""
        ...

    def read(self, path: str) -> bytes:
        """Content of a file, by its path from here.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it cannot be read.
        """
        ...

    def commit(self, name: Name, files: Iterable[tuple[str, bytes]]) -> int:
        """Write a checkpoint, meta.json last, so that a kill or a power loss leaves all of it or nothing.

        Returns:
            Its bytes.
        Raises:
            OSError: it cannot be written; nothing of it is left.
        """
        ...

    def remove(self, name: Name) -> None:
        """Delete a checkpoint, so that a kill leaves all of it or nothing."""
        ...

    def prepare(self) -> None:
        """Make the folder, delete what killed writers left, and try to write.

        Raises:
            OSError: nothing can be written here.
        """
        ...


def place_at(location: str | Path) -> Place:
    """The place that a path or URI names.

    Raises:
        UserError: the URI's scheme is unknown, or its server cannot be reached.
    """
    if not is_remote(str(location)):
        return LocalPlace(Path(location))
    try:
        return RemotePlace(str(location))
    except OSError as error:
        raise UserError(f"{shown(location)} cannot be reached ({reason_of(error)})") from error


def shown(location: str | Path) -> str:
    """A location as messages name it: a URI without credentials and options."""
    match = URI.fullmatch(str(location))
    if match is None:
        return str(location)
    return f"{match['scheme']}://{match['authority'].rpartition('@')[2]}{match['path']}"


def below(location: str | Path, name: str) -> str | Path:
    """The location of something in a folder."""
    if not is_remote(str(location)):
        return Path(location) / name
    path, mark, options = str(location).partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def reason_of(error: Exception) -> str:
    """What went wrong, in one short line that is the same each time it goes wrong."""
    if isinstance(error, OSError) and error.errno is not None and error.strerror and error.filename is not None:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


class LocalPlace:
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.shown = root, str(root)

    def names(self) -> list[Name]:
        """Committed checkpoints, oldest first."""
        return sorted(name for name in self._folders() if (self.root / str(name) / META_FILE).exists())

    def free_name(self, targets_seen: int) -> Name:
        """A name that nothing has."""
        return _after(self._folders(), targets_seen)

    def read(self, path: str) -> bytes:
        """Content of a file."""
        return (self.root / path).read_bytes()

    def commit(self, name: Name, files: Iterable[tuple[str, bytes]]) -> int:
        """Write aside, then rename; every byte and name is on the disk before the rename."""
        aside = self._aside(name)
        num_bytes = 0
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for file_name, content in files:
                with (aside / file_name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                num_bytes += len(content)
            fsync_folder(aside)
            aside.rename(self.root / str(name))
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        fsync_folder(self.root)
        return num_bytes

    def remove(self, name: Name) -> None:
        """Rename, then delete."""
        aside = self._aside(name)
        (self.root / str(name)).rename(aside)
        shutil.rmtree(aside)

    def prepare(self) -> None:
        """Make the folder, delete what killed writers left, and try to write."""
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.glob(".targets-*"):
            shutil.rmtree(path)
        probe = self.root / PROBE_FILE
        probe.write_bytes(b"?")
        probe.unlink()

    def _aside(self, name: Name) -> Path:
        return self.root / f".{name}.{os.getpid()}"

    def _folders(self) -> list[Name]:
        found = [parse_name(path.name) for path in self.root.glob("targets-*")]
        return [name for name in found if name is not None]


class RemotePlace:
    """A folder of an object storage, or of whatever pyarrow or fsspec opens."""

    def __init__(self, location: str) -> None:
        self._location, self.shown = location, shown(location)
        self._files, self._root = resolve_uri(location)
        # S3 and Google's storage have no folders; what fsspec opens may.
        self._has_folders = not isinstance(self._files, fs.S3FileSystem | fs.GcsFileSystem)

    def names(self) -> list[Name]:
        """Committed checkpoints, oldest first."""
        return sorted(name for name, is_committed in self._folders().items() if is_committed)

    def free_name(self, targets_seen: int) -> Name:
        """A name that nothing has."""
        return _after(self._folders(), targets_seen)

    def read(self, path: str) -> bytes:
        """Content of a file."""
        with open_remote(str(below(self._location, path))) as file:
            return file.read()

    def commit(self, name: Name, files: Iterable[tuple[str, bytes]]) -> int:
        """Write the files under their final names, meta.json last."""
        num_bytes = 0
        try:
            for file_name, content in files:
                self._write(f"{name}/{file_name}", content)
                num_bytes += len(content)
        except BaseException:
            with suppress(OSError):
                self.remove(name)
            raise
        return num_bytes

    def remove(self, name: Name) -> None:
        """Delete meta.json, then the rest."""
        folder = f"{self._root}/{name}"
        with _any_error_as_os_error():
            if self._files.get_file_info(f"{folder}/{META_FILE}").type == fs.FileType.File:
                self._files.delete_file(f"{folder}/{META_FILE}")
            self._files.delete_dir(folder)

    def prepare(self) -> None:
        """Delete what killed writers left, and try to write."""
        self._write(PROBE_FILE, b"?")
        with _any_error_as_os_error():
            self._files.delete_file(f"{self._root}/{PROBE_FILE}")
        for name, is_committed in self._folders().items():
            if not is_committed:
                self.remove(name)

    def _write(self, path: str, content: bytes) -> None:
        final = f"{self._root}/{path}"
        # An object is there whole or not at all, a file may be torn.
        aside = f"{final}{ASIDE}" if self._has_folders else final
        with _any_error_as_os_error():
            if self._has_folders:
                self._files.create_dir(final.rpartition("/")[0], recursive=True)
            with self._files.open_output_stream(aside) as file:
                file.write(content)
            if aside != final:
                self._files.move(aside, final)

    def _folders(self) -> dict[Name, bool]:
        """Names of which there is any file, and whether meta.json is among them."""
        with _any_error_as_os_error():
            infos = self._files.get_file_info(fs.FileSelector(self._root, recursive=True, allow_not_found=True))
        found: dict[Name, bool] = {}
        for info in infos:
            folder, _, file_name = info.path.rpartition("/")
            name = parse_name(folder.rpartition("/")[2])
            if name is not None and info.type == fs.FileType.File:
                found[name] = found.get(name, False) or file_name == META_FILE
        return found


def _after(taken: Iterable[Name], targets_seen: int) -> Name:
    revisions = [name.revision for name in taken if name.targets_seen == targets_seen]
    return Name(targets_seen, max(revisions) + 1 if revisions else 0)


@contextmanager
def _any_error_as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each fsspec library has exceptions of its own
        raise OSError(f"{type(error).__name__}: {error}") from error
