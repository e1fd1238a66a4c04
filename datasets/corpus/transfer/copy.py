"""`wm corpus copy`: copies a corpus between disks and buckets, file by file, and its state last.

Until then the target holds COPYING_FILE and is no corpus. Files that are there already, from a copy that was
interrupted or from an earlier state of the same corpus, are not copied again.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datasets.corpus.commit_log import COMMITS, commit_number, list_commits, map_in_order
from datasets.corpus.data_files import require_files
from datasets.corpus.reader import old_checksums
from datasets.corpus.state import (
    CORPUS_FILE,
    IN_PROGRESS_FILE,
    LOCK_FILE,
    TABLES,
    CorpusState,
    load_state,
    parse_state,
)
from datasets.runtime.errors import UserError
from datasets.runtime.storage.file_cache import checksum_of
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.storage.local_folder import LocalFolder

COPYING_FILE = "copying.json"
"""In the target while it is incomplete; names the source."""
THREADS = 16
STAGING = ".copying"
"""Hidden folder in a target on a disk, for files that are being downloaded."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes copied or found so far, and the bytes of all files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyReport:
    """The result of `copy_corpus`."""

    source: str
    target: str
    num_games: int
    num_files: int
    num_copied: int
    """Files that were not in the target."""
    num_bytes_copied: int
    seconds: float

    @property
    def text(self) -> str:
        """The report as text."""
        return (
            f"{self.target} is a copy of {self.source}: {self.num_games:,} games in {self.num_files:,} files, "
            f"{self.num_copied:,} of them copied now, with their checksums ({self.num_bytes_copied / 1e6:,.1f} MB in "
            f"{self.seconds:.1f} s)"
        )


def copy_corpus(
    source: str | Path, target: str | Path, on_progress: OnProgress = lambda done, total: None
) -> CopyReport:
    """Copy a corpus to another place, or complete a copy.

    Raises:
        UserError: the source is no corpus or is damaged; the target holds something else, or another command writes
            into it; or one of them cannot be reached.
    """
    started = time.monotonic()
    origin, copy = open_folder(source), open_folder(target)
    try:
        if origin.location == copy.location:
            raise UserError(f"{origin.location} cannot be copied onto itself")
        content = origin.read(CORPUS_FILE) if origin.exists(CORPUS_FILE) else b""
        state = parse_state(origin, content) if content else load_state(origin)
        _require_room_for(copy, origin, state)
        held = f"another command writes into {copy.location}; wait for it, or choose another target"
        with copy.lock(LOCK_FILE, uuid.uuid4().hex, held):
            job = _Copy(origin, copy, state)
            num_copied, num_bytes = job.run(content, on_progress)
            require_files(copy, state)
    except OSError as error:
        raise UserError(f"the copy is not complete ({error}); run the same command again to go on") from error
    return CopyReport(
        source=origin.location,
        target=copy.location,
        num_games=state.num_games,
        num_files=len(state.paths()),
        num_copied=num_copied,
        num_bytes_copied=num_bytes,
        seconds=time.monotonic() - started,
    )


def _require_room_for(target: Folder, source: Folder, state: CorpusState) -> None:
    """Refuse a target that holds anything but this corpus, an earlier state of it, or a part of a copy of it."""
    location = target.location
    if target.exists(CORPUS_FILE):
        there = load_state(target)
        if there.format_version != state.format_version or not _is_part(there, state):
            raise UserError(f"{location} holds another corpus than {source.location}; choose a new or empty target")
        return
    if target.exists(IN_PROGRESS_FILE):
        raise UserError(f"{location} holds a corpus that is being encoded; choose a new or empty target")
    if target.exists(COPYING_FILE):
        named = json.loads(target.read(COPYING_FILE)).get("source")
        if named != source.location:
            raise UserError(f"{location} holds a part of a copy of {named}; finish that, or choose another target")
        return
    if any(info.path != LOCK_FILE for info in target.list()):
        raise UserError(f"{location} exists and holds other files; choose a new or empty target")


def _is_part(earlier: CorpusState, later: CorpusState) -> bool:
    """Whether all files of one state belong to the other one."""
    paths = later.paths()
    return all(paths.get(path) == record for path, record in earlier.paths().items())


class _Copy:
    def __init__(self, source: Folder, target: Folder, state: CorpusState) -> None:
        self._source, self._target, self._state = source, target, state
        self._records = state.paths()
        is_old = any(record.blake2b is None for record in self._records.values())
        self._checksums = old_checksums(source) if is_old else {}

    def run(self, content: bytes, on_progress: OnProgress) -> tuple[int, int]:
        """Copy what is missing, and the state last; returns numbers of files and bytes."""
        if not self._target.exists(CORPUS_FILE):
            self._target.create(COPYING_FILE, json.dumps({"source": self._source.location}).encode())
        found = {info.path: info.num_bytes for table in TABLES for info in self._target.list(table)}
        missing = [path for path, record in self._records.items() if found.get(path) != record.num_bytes]
        total = sum(record.num_bytes for record in self._records.values())
        num_bytes = 0
        done = total - sum(self._records[path].num_bytes for path in missing)
        with self._staging() as staging:
            for copied in map_in_order(lambda path: self._copy(path, staging), missing, THREADS):
                num_bytes += copied
                on_progress(done + num_bytes, total)
        self._copy_commits(content)
        self._target.replace(CORPUS_FILE, content)
        self._target.delete([COPYING_FILE])
        return len(missing), num_bytes

    def _copy(self, path: str, staging: Path) -> int:
        """Copy one data file; returns its bytes."""
        if isinstance(self._source, LocalFolder):
            self._require_checksum(path, self._source.root / path)
            self._target.upload(self._source.root / path, path)
        else:
            local = staging / path.replace("/", "-")
            self._source.download(path, local)
            self._require_checksum(path, local)
            self._target.upload(local, path, move=True)
        return self._records[path].num_bytes

    def _require_checksum(self, path: str, local: Path) -> None:
        descriptor = os.open(local, os.O_RDONLY)
        try:
            found = checksum_of(descriptor)
        finally:
            os.close(descriptor)
        if found != (self._records[path].blake2b or self._checksums[path]):
            location = self._source.location
            raise UserError(f"{location}/{path} is damaged; drop it with `wm corpus repair {location}`")

    def _copy_commits(self, content: bytes) -> None:
        """Copy the commits that the state includes."""
        names = json.loads(content).get("commits")
        if names is None:
            current, _ = list_commits(self._source)
            paths = [path for path in current if commit_number(path) < self._state.num_commits]
        else:
            paths = [f"{COMMITS}/{name}" for name in names]
        there = {info.path for info in self._target.list(COMMITS)}
        missing = sorted(set(paths) - there)
        for _ in map_in_order(lambda path: self._target.create(path, self._source.read(path)), missing, THREADS):
            pass

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder for downloaded files: on the target's disk, where they are renamed and not copied again."""
        if isinstance(self._target, LocalFolder):
            try:
                yield self._target.root / STAGING
            finally:
                self._target.delete_below(STAGING)
        else:
            with tempfile.TemporaryDirectory(prefix="wm-corpus-copy-") as folder:
                yield Path(folder)
