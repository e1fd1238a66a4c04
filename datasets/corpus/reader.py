"""The corpus on disk: what its files are called, how they are made to last, how it is opened for reading.

What no commit names does not exist; what `corpus.json` does not list has not happened yet.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from datasets.corpus.commit_log import COMMITS, READING_THREADS, Commit, OtherFormatError, in_order, read_commits
from datasets.runtime.errors import UserError
from datasets.schema.columns import FORMAT_VERSION, GAMES_SCHEMA, REJECTS_SCHEMA

CORPUS_FILE = "corpus.json"
IN_PROGRESS_FILE = "encoding.json"
"""There while an encode runs, or after it was killed; holds the options it runs with."""
LOCK_FILE = "encode.lock"
"""Locked by the process that writes."""
LOG_FILE = "encode.log"
"""How far each encode was, a line every half minute."""
ASIDE_PATTERN = ".*.json.*"
"""What `write_json_atomically` leaves when it is killed."""
FRAMES, FOLLOWERS, GAMES, REJECTS, STAGING = "frames", "followers", "games", "rejects", "staging"
TABLES = (FRAMES, FOLLOWERS, GAMES, REJECTS)
"""Folders of data files; a commit has at most one file in each."""
Files = dict[str, tuple[str, int, int]]
"""Table -> name, rows and bytes of a commit's file in it."""
STATS_AT_ONCE = 64
"""Files that a thread looks at in one go."""


def write_json_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, also after a power loss."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        file.write(json.dumps(content, indent=1))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems have nothing to do here, and say so
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def file_facts(path: Path, num_rows: int) -> dict[str, Any]:
    """What a commit says of a file: its rows, bytes and checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return {
        "name": path.name,
        "rows": num_rows,
        "bytes": path.stat().st_size,
        "blake2b": digest.hexdigest(),
    }


def sealed_facts(path: Path, num_rows: int) -> dict[str, Any]:
    """`file_facts` of a file that has just been written and whose bytes outlive a power loss from now on.

    Called where the file was written, while it is still in that machine's memory.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_facts(path, num_rows)


@dataclass(frozen=True)
class Corpus:
    """A finished corpus, opened for reading."""

    root: Path
    manifest: dict[str, Any]

    @cached_property
    def commits(self) -> list[Commit]:
        """Every commit that the manifest lists, in order."""
        return [commit for _, commit in read_commits(self.root, self.manifest["commits"])]

    @cached_property
    def games(self) -> pa.Table:
        """The games table, in GAMES_SCHEMA, in corpus order."""
        return self._table(GAMES, GAMES_SCHEMA)

    @cached_property
    def rejects(self) -> pa.Table:
        """The inputs that were not taken, in REJECTS_SCHEMA."""
        return self._table(REJECTS, REJECTS_SCHEMA)

    def shard_path(self, shard: str) -> Path:
        """Path of a frames shard named in the games table."""
        return self.root / FRAMES / shard

    def num_bytes(self, table: str) -> int:
        """Bytes on disk of one table's committed files."""
        return sum(num_bytes for _, _, num_bytes in self.manifest["files"][table])

    def _table(self, table: str, schema: pa.Schema) -> pa.Table:
        paths = [str(self.root / table / name) for name, _, _ in self.manifest["files"][table]]
        if not paths:
            return schema.empty_table()
        try:
            return pads.dataset(paths, schema=schema, format="parquet").to_table()
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.root} cannot be read ({reason}); see `wm corpus verify {self.root}`") from error


def manifest_of(
    options: dict[str, Any],
    counts: dict[str, Any],
    commits: Iterable[tuple[str, Files]],
) -> dict[str, Any]:
    """Content of `corpus.json`.

    Args:
        counts: `num_games`, `num_frames` and `rejects` by reason.
        commits: file name and files of each commit, in order.
    """
    names: list[str] = []
    files: dict[str, list[tuple[str, int, int]]] = {table: [] for table in TABLES}
    for name, files_of_commit in commits:
        names.append(name)
        for table, file in files_of_commit.items():
            files[table].append(file)
    return {"format_version": FORMAT_VERSION, "options": options, **counts, "commits": names, "files": files}


def open_corpus(root: Path) -> Corpus:
    """Open a corpus for reading.

    Raises:
        UserError: no corpus is there, it is half-written, not whole, or of another format version.
    """
    if not (root / CORPUS_FILE).exists():
        if (root / IN_PROGRESS_FILE).exists():
            raise UserError(f"{root} is a half-written corpus; run the same `wm encode` again to finish it")
        raise UserError(f"{root} holds no {CORPUS_FILE}; expected a corpus made by `wm encode`")
    corpus = Corpus(root=root.resolve(), manifest=read_manifest(root / CORPUS_FILE))
    require_files(corpus.root, corpus.manifest)
    return corpus


def require_files(root: Path, manifest: dict[str, Any]) -> None:
    """Find out now, not hours into a run, that a copy of a corpus was not finished.

    Raises:
        UserError: a file that the manifest lists is missing or has another size.
    """
    way_on = f"copy it again, or drop what is not sound with `wm corpus repair {root}`"
    try:
        expected: list[tuple[Path, int | None]] = [(root / COMMITS / name, None) for name in manifest["commits"]]
        for table in TABLES:
            expected += [(root / table / name, num_bytes) for name, _, num_bytes in manifest["files"][table]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / CORPUS_FILE} is damaged ({type(error).__name__}); {way_on}") from error
    batches = [expected[at : at + STATS_AT_ONCE] for at in range(0, len(expected), STATS_AT_ONCE)]
    try:
        others = [other for found in in_order(_of_other_size, batches, READING_THREADS) for other in found]
    except OSError as error:
        raise UserError(f"{root} is not whole ({error.filename} is missing); {way_on}") from error
    for path, found, size in others:
        raise UserError(f"{path} has {found:,} bytes, expected {size:,}; {way_on}")


def _of_other_size(expected: list[tuple[Path, int | None]]) -> list[tuple[Path, int, int]]:
    """Those of some files that have another size than expected, with both; None stands for any size."""
    found = [(path, path.stat().st_size, size) for path, size in expected]
    return [(path, there, size) for path, there, size in found if size is not None and there != size]


def strays(root: Path, manifest: dict[str, Any]) -> list[Path]:
    """Files that a corpus no longer has or never had: of killed runs, and of commits that have a newer revision."""
    named = {table: {name for name, *_ in manifest["files"][table]} for table in TABLES}
    found = [path for table in TABLES for path in (root / table).glob("*.parquet") if path.name not in named[table]]
    listed = set(manifest["commits"])
    found += [path for path in (root / COMMITS).glob("[0-9]*.json") if path.name not in listed]
    return [*sorted(found), *root.glob(ASIDE_PATTERN), *(root / COMMITS).glob(ASIDE_PATTERN)]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read corpus.json or encoding.json and check its version.

    Raises:
        UserError: the file is damaged or of another format version.
    """
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); `wm corpus repair {path.parent}` makes it again"
        ) from error
    if version != FORMAT_VERSION:
        raise OtherFormatError(
            f"{path.parent} has corpus format {version}, this version reads {FORMAT_VERSION}; "
            "encode the replays again into a new folder"
        )
    return manifest
