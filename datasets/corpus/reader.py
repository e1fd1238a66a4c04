"""Opening a finished corpus for reading, on a disk or in a bucket."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.commit_log import COMMITS, READING_THREADS, Commit, list_commits, map_in_order, read_commits
from datasets.corpus.data_files import in_schema, require_files
from datasets.corpus.state import FRAMES, GAMES, REJECTS, CorpusState, FileRecord, load_state
from datasets.runtime.errors import UserError
from datasets.runtime.storage.file_cache import FileCache, RemoteFile
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.storage.local_folder import LocalFolder
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA
from datasets.schema.optional_tables import OPTIONAL_TABLES, ROW_COUNTS, OptionalTable


@dataclass(frozen=True)
class Corpus:
    """A finished corpus, open for reading. Threads may share it."""

    folder: Folder
    state: CorpusState
    cache: FileCache = field(default_factory=FileCache)
    """Copies of the files of a corpus in a bucket."""

    @property
    def location(self) -> str:
        """Path or URI, without credentials."""
        return self.folder.location

    @property
    def root(self) -> Path:
        """Folder of a corpus on a disk."""
        assert isinstance(self.folder, LocalFolder)
        return self.folder.root

    @cached_property
    def commits(self) -> list[Commit]:
        """The commits that count, in order."""
        return list(read_commits(self.folder, list_commits(self.folder)[0]))

    @cached_property
    def games(self) -> pa.Table:
        """The games table, in GAMES_SCHEMA, in corpus order."""
        return self._table(GAMES, GAMES_SCHEMA)

    @cached_property
    def rejects(self) -> pa.Table:
        """The rejected inputs, in REJECTS_SCHEMA."""
        return self._table(REJECTS, REJECTS_SCHEMA)

    def optional_rows(self, table: OptionalTable, games: Iterable[int]) -> Iterator[pa.Table]:
        """The rows of some games in an optional table: for each game, in the table's schema, sorted by frame.

        Games of one shard that follow one another, as in corpus order, take one read of its file.

        Args:
            games: rows of the games table.
        Raises:
            UserError: the corpus was encoded without this table, or a game's replay does not record it.
        """
        schema, of_shard = OPTIONAL_TABLES[table], ("", {})
        facts = self.games.select(["game_id", "shard", ROW_COUNTS[table]])
        for row in facts.take(pa.array(games, pa.int64())).to_pylist():
            if (count := row[ROW_COUNTS[table]]) is None:
                raise UserError(
                    f"{self.location} has no {table} of game {row['game_id']}: its replay does not record them, or the "
                    f"corpus was encoded without --tables {table}"
                )
            if count and of_shard[0] != row["shard"]:
                of_shard = row["shard"], _by_game(self._read(f"{table}/{row['shard']}", schema))
            yield of_shard[1][row["game_id"]] if count else schema.empty_table()

    @cached_property
    def digest(self) -> str:
        """Identifies the contents: the same for a corpus and its copies."""
        content = [
            self.state.options,
            self.state.files,
            sorted(self.state.removed_games),
            sorted(self.state.removed_rejects),
        ]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    def shard_path(self, shard: str) -> Path:
        """Path of a frames shard of a corpus on a disk."""
        return self.root / FRAMES / shard

    def open_file(self, path: str) -> pa.NativeFile:
        """Open a data file; that of a corpus in a bucket is copied to the cache if it is not there.

        Args:
            path: from the corpus's folder.
        Raises:
            OSError: the file, or the storage, cannot be reached.
            UserError: the file is damaged, or does not fit into the cache.
        """
        if isinstance(self.folder, LocalFolder):
            return pa.OSFile(str(self.folder.root / path))
        descriptor = self.cache.open(self._remote_file(path))
        try:
            return pa.OSFile(f"/dev/fd/{descriptor}")  # also if the copy was deleted from the cache meanwhile
        finally:
            os.close(descriptor)

    def discard_copy(self, path: str) -> bool:
        """Delete a file that cannot be read from the cache; whether it may be intact when it is opened again."""
        if isinstance(self.folder, LocalFolder):
            return False
        self.cache.discard(self._remote_file(path))
        return True

    def read_ahead(self, shards: Iterable[str]) -> None:
        """Copy frames shards of a corpus in a bucket to the cache, in the order in which they will be opened."""
        if not isinstance(self.folder, LocalFolder):
            self.cache.read_ahead(self._remote_file(f"{FRAMES}/{shard}") for shard in shards)

    def stop_reading_ahead(self) -> None:
        """End what `read_ahead` has begun."""
        self.cache.stop_reading_ahead()

    def num_bytes(self, table: str) -> int:
        """Bytes of one table's files."""
        return sum(record.num_bytes for record in self.state.files.get(table, ()))

    def _table(self, table: str, schema: pa.Schema) -> pa.Table:
        paths = [f"{table}/{record.name}" for record in self.state.files.get(table, ())]
        read = map_in_order(lambda path: (path, self._read(path, schema)), paths, READING_THREADS)
        tables = dict(read)
        return self.state.read_rows(table, schema, tables.__getitem__)

    def _read(self, path: str, schema: pa.Schema) -> pa.Table:
        try:
            with self.open_file(path) as file:
                return in_schema(pq.read_table(file), schema)
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self.location}/{path} cannot be read ({reason}); see `wm corpus verify {self.location}`"
            ) from error

    def _remote_file(self, path: str) -> RemoteFile:
        record = self._records[path]
        checksum = record.blake2b or self._checksums[path]
        return RemoteFile(self.folder, path, record.num_bytes, checksum)

    @cached_property
    def _records(self) -> dict[str, FileRecord]:
        return self.state.paths()

    @cached_property
    def _checksums(self) -> dict[str, str]:
        """Path -> checksum in a corpus of format 2, whose commits alone have them."""
        return old_checksums(self.folder)


def _by_game(rows: pa.Table) -> dict[str, pa.Table]:
    """Game -> its rows, which follow one another."""
    ids = rows["game_id"].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = ids.indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    names = ids.dictionary.to_pylist()
    lengths = np.diff(starts, append=len(codes))
    return {
        names[codes[start]]: rows.slice(start, length)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    }


def old_checksums(folder: Folder) -> dict[str, str]:
    """Path -> checksum of each file that a commit of a corpus of format 2 lists."""
    paths = [info.path for info in folder.list(COMMITS) if info.path.endswith(".json")]
    commits: Iterable[dict[str, Any]] = map_in_order(lambda path: json.loads(folder.read(path)), paths, READING_THREADS)
    return {f"{table}/{file['name']}": file["blake2b"] for commit in commits for table, file in commit["files"].items()}


def open_corpus(location: str | Path, cache: FileCache | None = None) -> Corpus:
    """Open a corpus for reading.

    Args:
        location: path, or URI in object storage.
        cache: for the files of a corpus in object storage.
    Raises:
        UserError: there is no corpus, or it is half-written, incomplete, or has another format version; or its storage
            cannot be reached.
    """
    if not isinstance(folder := open_folder(location), LocalFolder):
        try:
            return _open(folder, cache)
        except OSError as error:
            raise UserError(f"{folder.location} cannot be read ({error}); try again later") from error
    return _open(LocalFolder(folder.root.resolve()), cache)


def _open(folder: Folder, cache: FileCache | None) -> Corpus:
    state = load_state(folder)
    require_files(folder, state)
    return Corpus(folder, state, cache or FileCache())
