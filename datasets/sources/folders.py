"""Lists the files below a source, folder by folder, sorted by name; the names of one folder are in memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from datasets.runtime.errors import ReplayError
from datasets.runtime.object_storage import list_remote, list_tree, needs_tree_listing, stat_remote
from datasets.runtime.stored_file import StoredFile, storable_name
from datasets.runtime.uris import is_remote
from datasets.sources.read_errors import READ_ERRORS, rejection_of
from datasets.sources.storage import local_file, local_path, retry_transient

SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file of a source, or a folder that cannot be listed."""

    source: str
    """Name of the source, without the folders above it."""
    name: str
    """Path below the source, as valid Unicode."""
    file: StoredFile
    rejection: tuple[str, str] | None = None
    """Reason code and message if it is known that the file cannot be opened."""
    is_whole: bool = False
    """Whether it stands for a folder that cannot be listed, or for the source, rather than for a file."""

    @property
    def path(self) -> str:
        """The whole path by which the file was found; it determines the kind of the file."""
        return self.file.identity if is_remote(self.file.location) else self.file.location


def files(source: str) -> Iterator[Entry]:
    """All files of a source, which may be a single file. An inaccessible one has a rejection; nothing is raised."""
    return _remote_files(source) if is_remote(local_path(source)) else _local_files(local_path(source))


def _local_files(source: str) -> Iterator[Entry]:
    try:
        top = retry_transient(source, lambda: local_file(source))
        is_folder = os.path.isdir(source)
    except (OSError, ReplayError) as error:
        path = os.path.abspath(source)
        yield _inaccessible("", path, path, "", error)
        return
    if not is_folder:
        yield Entry(source=top.parent_name, name=top.name, file=top, rejection=_special_file(os.stat(source).st_mode))
        return
    label = storable_name(os.path.basename(top.identity))
    visited: set[tuple[int, int]] = set()
    levels: list[Iterator[tuple[str, str, str]]] = [iter([(top.location, top.identity, "")])]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
            continue
        path, identity, name = found
        try:
            is_link, status = retry_transient(path, partial(_status, path))
            identity = os.path.realpath(path) if is_link else identity
            if not stat.S_ISDIR(status.st_mode):
                base = storable_name(os.path.basename(path))
                file = StoredFile(path, identity, base, status.st_size, status.st_mtime_ns)
                yield Entry(source=label, name=storable_name(name), file=file, rejection=_special_file(status.st_mode))
                continue
            # A link to a folder above the source would add all that is beside the source.
            is_above = is_link and top.identity.startswith(f"{identity.rstrip('/')}/")
            if not is_above and (status.st_dev, status.st_ino) not in visited:  # links may form a cycle
                visited.add((status.st_dev, status.st_ino))
                names = sorted(retry_transient(path, partial(os.listdir, path)), key=os.fsencode)
                levels.append(_children(path, identity, name, names))
        except (OSError, ReplayError) as error:
            yield _inaccessible(label, path, identity, name, error)


def _children(path: str, identity: str, name: str, names: list[str]) -> Iterator[tuple[str, str, str]]:
    prefix = f"{name}/" if name else ""
    return ((f"{path.rstrip('/')}/{base}", f"{identity.rstrip('/')}/{base}", f"{prefix}{base}") for base in names)


def _status(path: str) -> tuple[bool, os.stat_result]:
    status = os.lstat(path)
    is_link = stat.S_ISLNK(status.st_mode)
    return is_link, os.stat(path) if is_link else status


def _special_file(mode: int) -> tuple[str, str] | None:
    """The rejection of a special file; None for a regular one."""
    kind = SPECIAL_FILES.get(stat.S_IFMT(mode))
    return None if kind is None else ("unopenable", f"{kind}, not a file")


def _inaccessible(label: str, path: str, identity: str, name: str, error: OSError | ReplayError) -> Entry:
    """A missing file or a dangling link counts by its name; anything else might be a folder of replays."""
    is_missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ELOOP)
    rejection = rejection_of(error, path)
    if is_missing and os.path.islink(path):
        rejection = "unopenable", rejection[1]  # once the link leads somewhere, the file is another input
    return Entry(
        source=label,
        name=storable_name(name),
        file=StoredFile(path, identity, storable_name(os.path.basename(path)), 0, 0),
        rejection=rejection,
        is_whole=not is_missing or not name,
    )


def _remote_files(source: str) -> Iterator[Entry]:
    try:
        is_folder, top = retry_transient(source, lambda: stat_remote(source))
    except READ_ERRORS as error:
        root = StoredFile(source, source.partition("?")[0], "", 0, 0)
        yield Entry(source="", name="", file=root, rejection=rejection_of(error, source), is_whole=True)
        return
    if not is_folder:
        yield Entry(source=top.parent_name, name=top.name, file=top)
        return
    if needs_tree_listing(source):
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
            children = retry_transient(file.location, partial(list_remote, file.location))
            levels.append(iter([(child, is_below, prefix + child.name) for child, is_below in children]))
        except READ_ERRORS as error:
            yield _unlisted(top, file, name, error)


def _tree_files(top: StoredFile) -> Iterator[Entry]:
    try:
        found = retry_transient(top.location, lambda: list_tree(top.location))
    except READ_ERRORS as error:
        yield _unlisted(top, top, "", error)
        return
    for name, file in found:
        yield Entry(source=top.name, name=name, file=file)


def _unlisted(top: StoredFile, folder: StoredFile, name: str, error: Exception) -> Entry:
    rejection = rejection_of(error, folder.location)
    return Entry(source=top.name, name=name, file=folder, rejection=rejection, is_whole=True)
