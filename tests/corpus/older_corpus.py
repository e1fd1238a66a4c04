"""A corpus of format 2, as version 0.1 of this project wrote it, made from one of this format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.data_files import file_record
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FOLLOWERS, FRAMES, GAMES, REJECTS
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA

NEWER_COLUMNS = {
    "suspect_rules", "suspect_frames", "row_in_group", "key", "location_key", "tool_version",
}  # fmt: skip


def write_older_corpus(source: Path, folder: Path) -> Path:
    """Write the games of a corpus that has one shard as a corpus of format 2 with one commit."""
    corpus = open_corpus(source)
    (shard,) = corpus.state.files[FRAMES]
    files = {}
    names = {
        FRAMES: "shard-000000.parquet",
        FOLLOWERS: "shard-000000.parquet",
        GAMES: "games-000000.parquet",
        REJECTS: "rejects-000000.parquet",
    }
    games = corpus.games.set_column(
        corpus.games.schema.get_field_index("shard"),
        GAMES_SCHEMA.field("shard"),
        pa.array([names[FRAMES]] * corpus.games.num_rows),
    )
    rows = {GAMES: _older(games, GAMES_SCHEMA), REJECTS: _older(corpus.rejects, REJECTS_SCHEMA)}
    for table in (FRAMES, FOLLOWERS, GAMES, REJECTS):
        (folder / table).mkdir(parents=True)
        path = folder / table / names[table]
        if table in rows and rows[table].num_rows:
            pq.write_table(rows[table], path)
        elif table not in rows and corpus.state.files[table]:
            shutil.copy(source / table / shard.name, path)
        if path.exists():
            files[table] = file_record(path, pq.read_metadata(path).num_rows)
    commit = {name: file._asdict() for name, file in files.items()}
    for record in commit.values():
        record["bytes"] = record.pop("num_bytes")
    (folder / "commits").mkdir()
    (folder / "commits" / "000000.json").write_text(json.dumps({"format_version": 2, "files": commit}))
    manifest = {
        "format_version": 2,
        "options": corpus.state.options,
        "num_games": corpus.state.num_games,
        "num_frames": corpus.state.num_frames,
        "rejects": dict(corpus.state.rejects),
        "commits": ["000000.json"],
        "files": {table: [list(files[table][:3])] if table in files else [] for table in names},
    }
    (folder / "corpus.json").write_text(json.dumps(manifest, indent=1))
    return folder


def _older(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    return rows.select([name for name in schema.names if name not in NEWER_COLUMNS])
