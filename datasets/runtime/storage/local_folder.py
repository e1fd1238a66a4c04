"""A folder on a disk, or on a network file system that is mounted."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from datasets.runtime.durable_files import fsync_folder
from datasets.runtime.file_lock import exclusive_lock, is_locked
from datasets.runtime.storage.folder import FileInfo, Folder, Lock, temporary_beside

AT_FDCWD = -100
RENAME_NOREPLACE = 1
"""Constants of renameat2(2)."""
READ_BYTES = 4 << 20


class LocalFolder(Folder):
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.location = root, str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_range(self, path: str, start: int, num_bytes: int) -> bytes:
        with (self.root / path).open("rb") as file:
            file.seek(start)
            return file.read(num_bytes)

    def create(self, path: str, content: bytes) -> None:
        final = self.root / path
        with temporary_beside(final) as temporary:
            _write(temporary, content)
            try:
                _rename_to_new(temporary, final)
            except FileExistsError:
                if final.read_bytes() != content:
                    raise
        fsync_folder(final.parent)

    def replace(self, path: str, content: bytes) -> None:
        final = self.root / path
        with temporary_beside(final) as temporary:
            _write(temporary, content)
            temporary.replace(final)
        fsync_folder(final.parent)

    def upload(self, source: Path, path: str, *, move: bool = False) -> None:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        if move and source.stat().st_dev == final.parent.stat().st_dev:
            _fsync(source)
            source.replace(final)
        else:
            with temporary_beside(final) as temporary:
                shutil.copyfile(source, temporary)
                _fsync(temporary)
                temporary.replace(final)
            if move:
                source.unlink()
        fsync_folder(final.parent)

    def stream(self, path: str) -> Iterator[bytes]:
        with (self.root / path).open("rb") as file:
            while content := file.read(READ_BYTES):
                yield content

    def info(self, path: str) -> FileInfo | None:
        try:
            return _info(path, (self.root / path).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, below: str = "", *, hidden: bool = False) -> Iterator[FileInfo]:
        found = []
        for folder, _, names in os.walk(self.root / below, onerror=_reraise_unless_missing):
            for name in names:
                if name.startswith(".") and not hidden:
                    continue
                path = Path(folder, name)
                try:
                    found.append(_info(path.relative_to(self.root).as_posix(), path.stat()))
                except FileNotFoundError:  # deleted meanwhile
                    continue
        return iter(sorted(found))

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            (self.root / path).unlink(missing_ok=True)

    def delete_below(self, below: str) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root / below)

    def lock(self, path: str, owner: str, held_message: str) -> Lock:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        return exclusive_lock(final, held_message)

    def is_locked(self, path: str) -> bool:
        return is_locked(self.root / path)


def _info(path: str, stat: os.stat_result) -> FileInfo:
    version = f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    return FileInfo(path, stat.st_size, version, stat.st_mtime)


def _reraise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename a file; FileExistsError if the new name exists."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        _renameat2(source, target)  # a file system without hard links, such as exFAT


def _renameat2(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
