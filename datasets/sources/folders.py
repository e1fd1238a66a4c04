"""Files below a source, folder by folder, in the order of their names: one folder's names are in memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from datasets.runtime.object_storage import is_listed_whole, is_remote, list_remote, list_tree, stat_remote
from datasets.runtime.stored_file import StoredFile
from datasets.sources.names import readable
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.storage import local_file, local_path

ODD_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of a source, or a folder that cannot be listed."""

    source: str
    """Name of the source, without the folders above it."""
    name: str
    """Path below the source, as it can be stored."""
    file: StoredFile
    rejection: tuple[str, str] | None = None
    """Why it cannot be opened, if that is known."""
    is_whole: bool = False
    """Whether it stands for a folder that cannot be listed, or for the source, rather than for a file."""

    @property
    def path(self) -> str:
        """All of the path by which it was reached; it tells what kind of file it is."""
        return self.file.identity if is_remote(self.file.location) else self.file.location


def files(source: str) -> Iterator[Entry]:
    """Yield all files of a source, which may be one file. An unreadable entry has a rejection; nothing raises."""
    return _remote_files(source) if is_remote(local_path(source)) else _local_files(local_path(source))


def _local_files(source: str) -> Iterator[Entry]:
    try:
        top = local_file(source)
        is_folder = os.path.isdir(source)
    except OSError as error:
        path = os.path.abspath(source)
        yield replace(_unseen("", path, path, "", error), is_whole=True)
        return
    if not is_folder:
        yield Entry(source=top.parent_name, name=top.name, file=top, rejection=_odd_kind(os.stat(source).st_mode))
        return
    label = readable(os.path.basename(top.identity))
    visited: set[tuple[int, int]] = set()
    levels: list[Iterator[tuple[str, str, str]]] = [iter([(top.location, top.identity, "")])]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        path, place, name = found
        try:
            is_link, status = _status(path)
            place = os.path.realpath(path) if is_link else place
            if not stat.S_ISDIR(status.st_mode):
                file = StoredFile(path, place, readable(os.path.basename(path)), status.st_size, status.st_mtime_ns)
                yield Entry(source=label, name=readable(name), file=file, rejection=_odd_kind(status.st_mode))
            elif (status.st_dev, status.st_ino) not in visited:  # links may lead back or twice to the same place
                visited.add((status.st_dev, status.st_ino))
                names = sorted(os.listdir(path), key=os.fsencode)
                levels.append(_below(path, place, name, names))
        except OSError as error:
            yield _unseen(label, path, place, name, error)


def _below(path: str, place: str, name: str, names: list[str]) -> Iterator[tuple[str, str, str]]:
    prefix = f"{name}/" if name else ""
    return ((f"{path.rstrip('/')}/{base}", f"{place.rstrip('/')}/{base}", f"{prefix}{base}") for base in names)


def _status(path: str) -> tuple[bool, os.stat_result]:
    status = os.lstat(path)
    is_link = stat.S_ISLNK(status.st_mode)
    return is_link, os.stat(path) if is_link else status


def _odd_kind(mode: int) -> tuple[str, str] | None:
    """Why a file of that mode is not opened."""
    kind = ODD_KINDS.get(stat.S_IFMT(mode))
    return None if kind is None else ("unopenable", f"{kind}, not a file")


def _unseen(label: str, path: str, place: str, name: str, error: OSError) -> Entry:
    """What cannot be seen: of a kind that its name tells, if it is gone or a link to nowhere; else it might be all."""
    is_folder = os.path.isdir(path)
    code, message = rejection_of(error)
    return Entry(
        source=label,
        name=readable(name),
        file=StoredFile(path, place, readable(os.path.basename(path)), 0, 0),
        rejection=(code, f"a folder that cannot be listed: {message}" if is_folder else message),
        is_whole=is_folder or error.errno not in (errno.ENOENT, errno.ELOOP),
    )


def _remote_files(source: str) -> Iterator[Entry]:
    try:
        is_folder, top = stat_remote(source)
    except DAMAGE as error:
        root = StoredFile(source, source.partition("?")[0], "", 0, 0)
        yield Entry(source="", name="", file=root, rejection=rejection_of(error), is_whole=True)
        return
    if not is_folder:
        yield Entry(source=top.parent_name, name=top.name, file=top)
        return
    if is_listed_whole(source):
        yield from _tree_files(top)
        return
    levels = [iter([(top, True, "")])]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        file, is_folder, name = found
        if not is_folder:
            yield Entry(source=top.name, name=name, file=file)
            continue
        try:
            prefix = f"{name}/" if name else ""
            listed = list_remote(file.location)
            levels.append(iter([(child, is_below, prefix + child.name) for child, is_below in listed]))
        except DAMAGE as error:
            code, message = rejection_of(error)
            message = f"a folder that cannot be listed: {message}"
            yield Entry(source=top.name, name=name, file=file, rejection=(code, message), is_whole=True)


def _tree_files(top: StoredFile) -> Iterator[Entry]:
    try:
        for name, file in list_tree(top.location):
            yield Entry(source=top.name, name=name, file=file)
    except DAMAGE as error:
        code, message = rejection_of(error)
        message = f"a folder that cannot be listed: {message}"
        yield Entry(source=top.name, name="", file=top, rejection=(code, message), is_whole=True)
