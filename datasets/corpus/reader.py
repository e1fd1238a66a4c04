"""Opening a finished corpus for reading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from datasets.corpus.commit_log import Commit, read_commits
from datasets.corpus.manifest import (
    CORPUS_FILE,
    FRAMES,
    GAMES,
    IN_PROGRESS_FILE,
    REJECTS,
    read_manifest,
    require_files,
)
from datasets.runtime.errors import UserError
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA


@dataclass(frozen=True)
class Corpus:
    """A finished corpus, open for reading."""

    root: Path
    manifest: dict[str, Any]

    @cached_property
    def commits(self) -> list[Commit]:
        """All commits that the manifest lists, in order."""
        return [commit for _, commit in read_commits(self.root, self.manifest["commits"])]

    @cached_property
    def games(self) -> pa.Table:
        """The games table, in GAMES_SCHEMA, in corpus order."""
        return self._table(GAMES, GAMES_SCHEMA)

    @cached_property
    def rejects(self) -> pa.Table:
        """The rejected inputs, in REJECTS_SCHEMA."""
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


def open_corpus(root: Path) -> Corpus:
    """Open a corpus for reading.

    Raises:
        UserError: there is no corpus, or it is half-written, incomplete, or has another format version.
    """
    if not (root / CORPUS_FILE).exists():
        if (root / IN_PROGRESS_FILE).exists():
            raise UserError(f"{root} is a half-written corpus; run the same `wm encode` again to finish it")
        raise UserError(f"{root} holds no {CORPUS_FILE}; expected a corpus made by `wm encode`")
    corpus = Corpus(root=root.resolve(), manifest=read_manifest(root / CORPUS_FILE))
    require_files(corpus.root, corpus.manifest)
    return corpus
