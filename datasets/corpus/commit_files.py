"""The data files of one commit: made in staging, from a chunk's files or from an older revision's, then moved.

Both ways are one: some games with their rows in a file of frames (and one of followers), of which some stay. Where
all stay the files are taken as they are; else the rows of those that stay are copied, row group by row group.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.manifest import FOLLOWERS, FRAMES, GAMES, REJECTS
from datasets.corpus.shard import ShardWriter
from datasets.runtime.durable_files import fsync_folder
from datasets.runtime.errors import UserError
from datasets.schema.columns import FOLLOWERS_SCHEMA, FRAMES_SCHEMA, GAMES_SCHEMA, REJECTS_SCHEMA

_COPIES = threading.Semaphore(2)
"""Files copied at once: each takes about 110 MB for the while."""

Row = dict[str, Any]
"""Of the games or rejects table."""
FileRecord = dict[str, Any]
"""What a commit stores about a file: name, rows, bytes, blake2b."""


def file_record(path: Path, num_rows: int) -> FileRecord:
    """What a commit stores about a file: its name, rows, bytes and checksum."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return {
        "name": path.name,
        "rows": num_rows,
        "bytes": path.stat().st_size,
        "blake2b": digest.hexdigest(),
    }


def durable_file_record(path: Path, num_rows: int) -> FileRecord:
    """Flush a newly written file to disk and return its `file_record`.

    Called by the process that wrote the file, while its pages are still in the page cache.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return file_record(path, num_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class GameFiles:
    """Some games whose rows lie in files of their own."""

    games: Sequence[Row]
    """In the order of their rows, with `first_row` and `row_group` in `frames`."""
    frames: Path
    followers: Path | None
    facts: dict[str, FileRecord]
    """File name -> its facts, of files that are known to outlive a power loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFiles:
    """A commit's files before they are moved to where the commit says."""

    files: dict[str, FileRecord]
    """Table -> facts, with the final names."""
    paths: dict[str, Path]
    """Table -> where its file is now."""


def stage_files(
    staging: Path, stem: str, source: GameFiles | None, keeps: Sequence[bool], rejects: Sequence[Row]
) -> StagedFiles:
    """Make the files of one commit in a folder for unfinished ones; they outlive a power loss when this returns.

    Args:
        stem: of the commit (`datasets.corpus.commit_log.commit_stem`).
        source: None where there are no games at all.
        keeps: for each of the source's games whether it stays.
    """
    files: dict[str, FileRecord] = {}
    paths: dict[str, Path] = {}
    shard = f"shard-{stem}.parquet"

    def add(table: str, name: str, path: Path, facts: FileRecord) -> None:
        files[table] = facts | {"name": name}
        paths[table] = path

    if source is not None and any(keeps):
        games: list[Row] = list(source.games)
        frames, followers = source.frames, source.followers
        if not all(keeps):
            frames = staging / f"kept-{stem}.frames.parquet"
            with _COPIES:
                games = _copy_frames(source, keeps, frames)
                if followers is not None:
                    followers = _copy_followers(source, keeps, staging / f"kept-{stem}.followers.parquet")
        add(FRAMES, shard, frames, source.facts.get(frames.name) or _facts(frames))
        if followers is not None:
            add(FOLLOWERS, shard, followers, source.facts.get(followers.name) or _facts(followers))
        rows = [game | {"shard": shard} for game in games]
        path = _write_rows(staging / f"{stem}.games.parquet", rows, GAMES_SCHEMA)
        add(GAMES, f"{GAMES}-{stem}.parquet", path, durable_file_record(path, len(rows)))
    if rejects:
        path = _write_rows(staging / f"{stem}.rejects.parquet", rejects, REJECTS_SCHEMA)
        add(REJECTS, f"{REJECTS}-{stem}.parquet", path, durable_file_record(path, len(rejects)))
    return StagedFiles(files=files, paths=paths)


def move_files(root: Path, staged: StagedFiles) -> None:
    """Move a commit's files to where it says they are.

    Raises:
        UserError: a file is not what its writer wrote.
    """
    for table, path in staged.paths.items():
        facts = staged.files[table]
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            num_bytes = 0
        if num_bytes != facts["bytes"]:
            raise UserError(
                f"{path} has {num_bytes:,} of the {facts['bytes']:,} bytes that were written; all machines must see "
                f"{root} as one folder, and nobody else may write there"
            )
        path.replace(root / table / facts["name"])
    for table in staged.paths:
        fsync_folder(root / table)


def _facts(path: Path) -> FileRecord:
    return durable_file_record(path, pq.read_metadata(path).num_rows)


def _write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
    return path


def _copy_frames(source: GameFiles, keeps: Sequence[bool], target: Path) -> list[Row]:
    """Copy the frames of the games that stay; returns these with their new places."""
    members: dict[int, list[Row]] = defaultdict(list)
    for game, stays in zip(source.games, keeps, strict=True):
        if stays:
            members[game["row_group"]].append(game)
    writer = ShardWriter(target, FRAMES_SCHEMA)
    placed: list[Row] = []
    first_row = 0
    with pq.ParquetFile(source.frames) as file:
        for group in range(file.num_row_groups):
            if members[group]:
                table = file.read_row_group(group, use_threads=False)
                for game in members[group]:
                    rows = table.slice(game["first_row"] - first_row, game["num_frames"])
                    placed.append(game | writer.add(_without_other_ids(rows, FRAMES_SCHEMA)))
            first_row += file.metadata.row_group(group).num_rows
    writer.close()
    return placed


def _copy_followers(source: GameFiles, keeps: Sequence[bool], target: Path) -> Path | None:
    """Copy the followers of the games that stay, if they have any."""
    assert source.followers is not None
    writer = ShardWriter(target, FOLLOWERS_SCHEMA)
    first_row = 0
    stays = np.repeat(keeps, [game["num_follower_rows"] for game in source.games])
    with pq.ParquetFile(source.followers) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            kept = table.filter(pa.array(stays[first_row : first_row + table.num_rows]))
            first_row += table.num_rows
            if kept.num_rows:
                writer.add(_without_other_ids(kept, FOLLOWERS_SCHEMA))
    if writer.close():
        return target
    target.unlink()
    return None


def _without_other_ids(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows, with no other game's id left in their dictionary."""
    ids = rows["game_id"].cast(pa.string()).dictionary_encode()
    return rows.set_column(0, "game_id", ids).cast(schema)
