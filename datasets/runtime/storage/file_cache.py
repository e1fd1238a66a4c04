"""A bounded folder on this machine's disk with copies of remote files, shared by all processes of the machine.

Files are named by their checksums, so corpora that share files share copies, and a copy is checked by its name. The
least recently used are deleted first. The OS releases the locks of a killed process, and the next process deletes the
half-written file that it left.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.runtime.text_format import format_duration

READAHEAD_THREADS = 4
NUM_LOCKS = 64
PART_SUFFIX = ".part"
POLL_S = 0.05
READAHEAD_DIVISOR = 16
"""One part in so many of the cache is filled in advance; several workers of a machine may share it."""
RETRY_S = 2.0
OUTAGE_S = 600.0
"""How long a file is tried again that the storage does not give."""
CHECKSUM_BYTES = 16
"""Of blake2b, as in the commits of a corpus."""
FREE_FRACTION = 0.5
"""Of the disk's free space, by default."""


class RemoteFile(NamedTuple):
    """A file in a folder, whose content is known by its checksum."""

    folder: Folder
    path: str
    num_bytes: int
    checksum: str
    """128 bits of blake2b, hexadecimal."""


def default_root() -> Path:
    """`melee-world-model` in the user's cache folder (XDG_CACHE_HOME, by default ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "melee-world-model"


class FileCache:
    """Copies of remote files on this machine's disk. Threads and processes may share the folder."""

    def __init__(self, root: Path | None = None, max_bytes: int | None = None) -> None:
        """
        Args:
            root: the folder; by default `default_root()`.
            max_bytes: of all copies together; by default half of what the disk has left.
        """
        self.root, self._max_bytes = root or default_root(), max_bytes
        self._verified: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._ahead: deque[RemoteFile] = deque()
        self._fetched: dict[str, int] = {}
        self._background: ThreadPoolExecutor | None = None

    @cached_property
    def max_bytes(self) -> int:
        """Of all copies together."""
        if self._max_bytes is not None:
            return self._max_bytes
        self._create_root()
        held = sum(size for _, size, _ in self._entries())
        return int(FREE_FRACTION * (shutil.disk_usage(self.root).free + held))

    def open(self, file: RemoteFile) -> int:
        """A file descriptor of the local copy, which is downloaded if it is missing or damaged.

        The descriptor stays valid when the copy is deleted to make room for others.

        Raises:
            UserError: the file is larger than the cache, the folder cannot be written, or the remote file is missing or
                differs from its checksum.
            OSError: the storage could not be reached for OUTAGE_S.
        """
        self._create_root()
        descriptor = self._open_copy(file)
        if descriptor is None:
            with self._locked(_lock_name(file)):
                descriptor = self._open_copy(file)  # another process may have downloaded it meanwhile
                descriptor = self._download(file) if descriptor is None else descriptor
        with self._lock:
            if self._fetched.pop(file.checksum, None) is not None:
                self._advance()
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def read_ahead(self, files: Iterable[RemoteFile]) -> None:
        """Download files in the background in the order in which they will be opened, some of them in advance.

        Those of an earlier call are given up. Errors are left to `open`.
        """
        self._create_root()
        with self._lock:
            self._ahead, self._fetched = deque(files), {}
            self._advance()

    def stop_reading_ahead(self) -> None:
        """Start no further download, and wait for those that run."""
        with self._lock:
            self._ahead.clear()
            background, self._background = self._background, None
        if background is not None:
            background.shutdown(cancel_futures=True)

    def _advance(self) -> None:
        """Start the next downloads as far as they fit into the part of the cache that is filled in advance."""
        room = self.max_bytes // READAHEAD_DIVISOR
        while self._ahead and (not self._fetched or sum(self._fetched.values()) + self._ahead[0].num_bytes <= room):
            file = self._ahead.popleft()
            if file.checksum not in self._fetched:
                self._fetched[file.checksum] = file.num_bytes
                if self._background is None:
                    self._background = ThreadPoolExecutor(READAHEAD_THREADS, thread_name_prefix="read-ahead")
                self._background.submit(self._fetch, file)

    def _fetch(self, file: RemoteFile) -> None:
        with suppress(OSError, UserError), self._locked(_lock_name(file)):
            descriptor = self._open_copy(file)
            os.close(self._download_once(file) if descriptor is None else descriptor)

    def discard(self, file: RemoteFile) -> None:
        """Delete a copy that turned out to be damaged."""
        self._verified.pop(file.checksum, None)
        self._path(file).unlink(missing_ok=True)

    def _path(self, file: RemoteFile) -> Path:
        return self.root / file.checksum

    def _create_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the cache folder {self.root} cannot be created ({error.strerror})") from error

    def _open_copy(self, file: RemoteFile) -> int | None:
        """Open the copy and mark it as used; None if there is no sound one."""
        try:
            descriptor = os.open(self._path(file), os.O_RDONLY)
        except FileNotFoundError:
            return None
        stat = os.fstat(descriptor)
        identity = stat.st_dev, stat.st_ino
        if stat.st_size == file.num_bytes and (
            self._verified.get(file.checksum) == identity or checksum_of(descriptor) == file.checksum
        ):
            self._verified[file.checksum] = identity
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)
        self.discard(file)
        return None

    def _download(self, file: RemoteFile) -> int:
        """Download a file, waiting for the end of an outage."""
        deadline = time.monotonic() + OUTAGE_S
        is_reported = False
        while True:
            try:
                return self._download_once(file)
            except FileNotFoundError as error:
                raise UserError(f"{file.folder.location}/{file.path} is missing; copy the corpus again") from error
            except OSError as error:
                if error.errno is not None:
                    raise UserError(f"cannot write to the cache {self.root}: {os.strerror(error.errno)}") from error
                if time.monotonic() > deadline:
                    raise
                if not is_reported:
                    print(f"{error}; trying again for {format_duration(OUTAGE_S)}", file=sys.stderr, flush=True)
                is_reported = True
            time.sleep(RETRY_S)

    def _download_once(self, file: RemoteFile) -> int:
        part = self.root / f"{file.checksum}{PART_SUFFIX}"
        descriptor = self._reserve(part, file)
        try:
            for _ in range(2):  # the copy, or the connection, may have damaged it
                os.lseek(descriptor, 0, os.SEEK_SET)
                with os.fdopen(os.dup(descriptor), "wb") as out:
                    out.writelines(file.folder.stream(file.path))
                if os.fstat(descriptor).st_size == file.num_bytes and checksum_of(descriptor) == file.checksum:
                    break
            else:
                raise UserError(
                    f"{file.folder.location}/{file.path} is damaged: its checksum is not that of the corpus; "
                    f"`wm corpus repair {file.folder.location}` drops it"
                )
            part.rename(self._path(file))
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        stat = os.fstat(descriptor)
        self._verified[file.checksum] = stat.st_dev, stat.st_ino
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return descriptor

    def _reserve(self, part: Path, file: RemoteFile) -> int:
        """Create a file of the final size, locked while it is written, after making room for it."""
        while True:
            with self._locked("room.lock"):
                if self._make_room(file):
                    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    os.truncate(descriptor, file.num_bytes)
                    return descriptor
            time.sleep(POLL_S)  # until a download of another process ends

    def _make_room(self, file: RemoteFile) -> bool:
        """Delete the least recently used copies; False if running downloads of others leave no room."""
        if file.num_bytes > self.max_bytes:
            raise UserError(
                f"{file.path} has {file.num_bytes:,} bytes, more than the cache in {self.root} may hold "
                f"({self.max_bytes:,}); make it larger (data.cache_size, --cache-size)"
            )
        entries = self._entries()
        excess = sum(size for _, size, _ in entries) + file.num_bytes - self.max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            if path.suffix != PART_SUFFIX or not _is_locked(path):
                path.unlink(missing_ok=True)
                excess -= size
        return excess <= 0

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Time of the last use, size and path of every copy, whole or half-written."""
        found = []
        for entry in os.scandir(self.root):
            if not entry.name.endswith(".lock"):
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue
                found.append((stat.st_mtime, stat.st_size, Path(entry.path)))
        return found

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Exclude other threads and processes; `flock` locks belong to an open file, not to a process."""
        with (self.root / name).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def checksum_of(descriptor: int) -> str:
    """Checksum of an open file, as the commits of a corpus store it."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=CHECKSUM_BYTES)).hexdigest()


def _is_locked(path: Path) -> bool:
    """Whether a half-written file belongs to a running download, which may have ended and renamed it meanwhile."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def _lock_name(file: RemoteFile) -> str:
    return f"{int(file.checksum[:8], 16) % NUM_LOCKS:02d}.lock"
