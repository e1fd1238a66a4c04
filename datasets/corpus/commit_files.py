"""The data files of one commit: staged from a chunk's files or from an older revision's, then moved into place.

Both sources have the same form: games whose rows are in a frames file (and maybe a followers file), some of which are
kept. If all are kept, the files are used as they are; else the rows of the kept games are copied, row group by row
group.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.commit_log import Commit, commit_stem, number_and_revision, read_commit
from datasets.corpus.known_games import DroppedGame
from datasets.corpus.manifest import FOLLOWERS, FRAMES, GAMES, REJECTS, FileSummaries
from datasets.corpus.shard import ShardWriter
from datasets.runtime.durable_files import fsync_folder
from datasets.runtime.errors import UserError
from datasets.schema.columns import FOLLOWERS_SCHEMA, FRAMES_SCHEMA, GAMES_SCHEMA, REJECTS_SCHEMA

_COPIES = threading.Semaphore(2)
"""Limits concurrent copies, each of which takes about 110 MB."""

Row = dict[str, Any]
"""A row of the games or rejects table."""
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


def file_summaries(files: dict[str, FileRecord]) -> FileSummaries:
    """What the manifest lists of a commit's files."""
    return {table: (record["name"], record["rows"], record["bytes"]) for table, record in files.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class GameFiles:
    """Games and the files that hold their rows."""

    games: Sequence[Row]
    """In the order of their rows, with `first_row` and `row_group` in `frames`."""
    frames: Path
    followers: Path | None
    records: dict[str, FileRecord]
    """File name -> its record, of files that are flushed to disk already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFiles:
    """A commit's files before they are moved into place."""

    files: dict[str, FileRecord]
    """Table -> record, with the final name."""
    paths: dict[str, Path]
    """Table -> current path of its file."""


def stage_files(
    staging: Path, stem: str, source: GameFiles | None, keep: Sequence[bool], rejects: Sequence[Row]
) -> StagedFiles:
    """Write the files of one commit to the staging folder; they are flushed to disk when this returns.

    Args:
        stem: of the commit (`datasets.corpus.commit_log.commit_stem`).
        source: None if there are no games.
        keep: for each of the source's games, whether it is kept.
    """
    files: dict[str, FileRecord] = {}
    paths: dict[str, Path] = {}
    shard = f"shard-{stem}.parquet"

    def add(table: str, name: str, path: Path, record: FileRecord) -> None:
        files[table] = record | {"name": name}
        paths[table] = path

    if source is not None and any(keep):
        games: list[Row] = list(source.games)
        frames, followers = source.frames, source.followers
        if not all(keep):
            frames = staging / f"kept-{stem}.frames.parquet"
            with _COPIES:
                games = _copy_frames(source, keep, frames)
                if followers is not None:
                    followers = _copy_followers(source, keep, staging / f"kept-{stem}.followers.parquet")
        add(FRAMES, shard, frames, source.records.get(frames.name) or _record(frames))
        if followers is not None:
            add(FOLLOWERS, shard, followers, source.records.get(followers.name) or _record(followers))
        rows = [game | {"shard": shard} for game in games]
        path = _write_rows(staging / f"{stem}.games.parquet", rows, GAMES_SCHEMA)
        add(GAMES, f"{GAMES}-{stem}.parquet", path, durable_file_record(path, len(rows)))
    if rejects:
        path = _write_rows(staging / f"{stem}.rejects.parquet", rejects, REJECTS_SCHEMA)
        add(REJECTS, f"{REJECTS}-{stem}.parquet", path, durable_file_record(path, len(rejects)))
    return StagedFiles(files=files, paths=paths)


def move_files(root: Path, staged: StagedFiles) -> None:
    """Move a commit's files into place.

    Raises:
        UserError: a file's size differs from what its writer wrote.
    """
    for table, path in staged.paths.items():
        record = staged.files[table]
        try:
            num_bytes = path.stat().st_size
        except FileNotFoundError:
            num_bytes = 0
        if num_bytes != record["bytes"]:
            raise UserError(
                f"{path} has {num_bytes:,} of the {record['bytes']:,} bytes that were written; all machines must see "
                f"{root} as the same folder, and no other process may write there"
            )
        path.replace(root / table / record["name"])
    for table in staged.paths:
        fsync_folder(root / table)


def _record(path: Path) -> FileRecord:
    return durable_file_record(path, pq.read_metadata(path).num_rows)


def _write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
    return path


def _copy_frames(source: GameFiles, keep: Sequence[bool], target: Path) -> list[Row]:
    """Copy the frames of the kept games; returns their rows with updated `first_row` and `row_group`."""
    members: dict[int, list[Row]] = defaultdict(list)
    for game, kept in zip(source.games, keep, strict=True):
        if kept:
            members[game["row_group"]].append(game)
    writer = ShardWriter(target, FRAMES_SCHEMA)
    copied: list[Row] = []
    first_row = 0
    with pq.ParquetFile(source.frames) as file:
        for group in range(file.num_row_groups):
            if members[group]:
                table = file.read_row_group(group, use_threads=False)
                for game in members[group]:
                    rows = table.slice(game["first_row"] - first_row, game["num_frames"])
                    copied.append(game | writer.add(_without_other_ids(rows, FRAMES_SCHEMA)))
            first_row += file.metadata.row_group(group).num_rows
    writer.close()
    return copied


def _copy_followers(source: GameFiles, keep: Sequence[bool], target: Path) -> Path | None:
    """Copy the followers of the kept games, if they have any."""
    assert source.followers is not None
    writer = ShardWriter(target, FOLLOWERS_SCHEMA)
    first_row = 0
    keep_rows = np.repeat(keep, [game["num_follower_rows"] for game in source.games])
    with pq.ParquetFile(source.followers) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            kept = table.filter(pa.array(keep_rows[first_row : first_row + table.num_rows]))
            first_row += table.num_rows
            if kept.num_rows:
                writer.add(_without_other_ids(kept, FOLLOWERS_SCHEMA))
    if writer.close():
        return target
    target.unlink()
    return None


def _without_other_ids(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows, with a dictionary that holds only their own game ids."""
    ids = rows["game_id"].cast(pa.string()).dictionary_encode()
    return rows.set_column(0, "game_id", ids).cast(schema)


DROP_MESSAGES = {
    "replaced": "replaced by its .slp",
    "duplicate": "an earlier commit has this game",
}
"""Reason code of a game that is removed from its commit -> message of the reject that replaces it."""


def reject_row(game: Row, code: str, message: str) -> Row:
    """The row in rejects/ of a game that is not accepted, or no longer."""
    kept = {name: game.get(name) for name in REJECTS_SCHEMA.names if name in game}
    return kept | {"code": code, "message": message}


def build_revision(
    root: Path, staging: Path, name: str, dropped: Sequence[DroppedGame]
) -> tuple[int, int, Commit, StagedFiles]:
    """Stage the next revision of a commit.

    Returns:
        Its number, its revision, its content without `files`, and its files.
    """
    commit = read_commit(root, name)
    number, revision = number_and_revision(name)
    files = commit["files"]
    codes = {game.game_id: game.code for game in dropped}
    games = pq.read_table(root / GAMES / files[GAMES]["name"], schema=GAMES_SCHEMA).to_pylist()
    keep = [game["game_id"] not in codes for game in games]
    rejects: list[Row] = []
    if REJECTS in files:
        rejects = pq.read_table(root / REJECTS / files[REJECTS]["name"], schema=REJECTS_SCHEMA).to_pylist()
    removed = [(game, codes[game["game_id"]]) for game in games if game["game_id"] in codes]
    rejects += [reject_row(game, code, DROP_MESSAGES[code]) for game, code in removed]
    source = GameFiles(
        games=games,
        frames=root / FRAMES / files[FRAMES]["name"],
        followers=root / FOLLOWERS / files[FOLLOWERS]["name"] if FOLLOWERS in files else None,
        records={},
    )
    staged = stage_files(staging, commit_stem(number, revision + 1), source, keep, rejects)
    content = commit | {
        "games": [entry for entry in commit["games"] if entry[0] not in codes],
        "parsed": [game_id for game_id in commit["parsed"] if game_id not in codes],
        "rejects": Counter(reject["code"] for reject in rejects),
    }
    return number, revision + 1, content, staged
