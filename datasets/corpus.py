"""The corpus on disk: what its files are called, how they are committed, how it is opened for reading.

What no commit names does not exist; what `corpus.json` does not list has not happened yet.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import UserError
from datasets.schema import FORMAT_VERSION, GAMES_SCHEMA, REJECTS_SCHEMA

CORPUS_FILE = "corpus.json"
IN_PROGRESS_FILE = "encoding.json"
"""There while an encode runs, or after it was killed; holds the options it runs with."""
LOCK_FILE = "encode.lock"
"""Locked by the process that writes."""
ASIDE_PATTERN = ".*.json.*"
"""What `write_json_atomically` leaves when it is killed."""
FRAMES, FOLLOWERS, GAMES, REJECTS, COMMITS, STAGING = (
    "frames",
    "followers",
    "games",
    "rejects",
    "commits",
    "staging",
)


def write_json_atomically(path: Path, content: dict[str, Any]) -> None:
    """Write aside, then rename: a reader sees the old file or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


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


@dataclass(frozen=True)
class Corpus:
    """A finished corpus, opened for reading."""

    root: Path
    manifest: dict[str, Any]

    @cached_property
    def commits(self) -> list[dict[str, Any]]:
        """Every commit that the manifest lists, in order."""
        return [json.loads((self.root / COMMITS / name).read_text()) for name in self.manifest["commits"]]

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
        return sum(commit["files"][table]["bytes"] for commit in self.commits if table in commit["files"])

    def _table(self, table: str, schema: pa.Schema) -> pa.Table:
        names = [commit["files"][table]["name"] for commit in self.commits if table in commit["files"]]
        tables = [pq.read_table(self.root / table / name, schema=schema) for name in names]
        return pa.concat_tables(tables) if tables else schema.empty_table()


def open_corpus(root: Path) -> Corpus:
    """Open a corpus for reading.

    Raises:
        UserError: no corpus is there, it is half-written, or of another format version.
    """
    if not (root / CORPUS_FILE).exists():
        if (root / IN_PROGRESS_FILE).exists():
            raise UserError(f"{root} is a half-written corpus; run the same `wm encode` again to finish it")
        raise UserError(f"{root} holds no {CORPUS_FILE}; expected a corpus made by `wm encode`")
    corpus = Corpus(root=root.resolve(), manifest=read_manifest(root / CORPUS_FILE))
    _require_files(corpus)
    return corpus


def _require_files(corpus: Corpus) -> None:
    """Find out now, not hours into a run, that a copy of a corpus was not finished."""
    try:
        for commit in corpus.commits:
            for table, facts in commit["files"].items():
                path = corpus.root / table / facts["name"]
                if path.stat().st_size != facts["bytes"]:
                    raise UserError(
                        f"{path} has other than its {facts['bytes']} bytes; copy or encode the corpus again"
                    )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        reason = getattr(error, "filename", None) or type(error).__name__
        raise UserError(f"{corpus.root} is not whole ({reason}); copy or encode the corpus again") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """Read corpus.json or encoding.json and check its version.

    Raises:
        UserError: the file is damaged or of another format version.
    """
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); encode the replays again") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path.parent} has corpus format {version}, this version reads {FORMAT_VERSION}; "
            "encode the replays again into a new folder"
        )
    return manifest
