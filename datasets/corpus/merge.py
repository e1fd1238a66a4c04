"""Merging small files of a corpus into larger ones, without the rows of removed games.

Shards that follow one another are merged, so the order of games does not change. A merged shard is named after its
content: what a killed merge has written is found again by the next one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus.commit_log import map_in_order
from datasets.corpus.data_files import file_record, local_copy, read_parquet, store_rows
from datasets.corpus.shard import ShardWriter, row_positions
from datasets.corpus.state import FRAMES, GAMES, REJECTS, CorpusState, FileRecord
from datasets.runtime.storage.folder import Folder
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA

MAX_THREADS = 4
"""Each takes about 110 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Which files are merged. The defaults are those of `wm encode`, which shall end soon."""

    small_bytes: int = 1 << 20
    """Smaller shards are merged."""
    target_bytes: int = 96 << 20
    """A merged shard is closed when it has so many bytes."""
    max_bytes: int | None = 256 << 20
    """If the small shards have more bytes, none is merged: a merge takes a third of the time of encoding. None: no
    limit."""
    purge: bool = False
    """Also rewrite larger shards that hold rows of removed games."""


class _Live(NamedTuple):
    """A game's rows in its shard."""

    row: int
    """Of the games table."""
    game_id: str
    num_frames: int
    first_row: int
    row_group: int


class _Group(NamedTuple):
    """Shards that follow one another and become one."""

    records: list[FileRecord]
    games: list[list[_Live]]
    """For each shard."""
    is_merged: bool


class _Merged(NamedTuple):
    """The files of a group by table, and for each of its games the row of the games table and the new position."""

    files: dict[str, FileRecord]
    positions: list[tuple[int, dict[str, Any]]]


def merge_files(folder: Folder, state: CorpusState, kept: set[str], limits: Limits) -> Iterator[dict[str, Any]]:
    """Merge files; yields the fields of one commit if there is something to merge.

    Args:
        kept: paths of files that are left as they are.
    """
    old = {
        table: [record for record in records if f"{table}/{record.name}" not in kept]
        for table, records in state.files.items()
    }
    games = _live_rows(folder, state, GAMES, GAMES_SCHEMA, old)
    files: dict[str, list[FileRecord]] = {}
    groups = list(_groups(old.get(FRAMES, []), games, limits))
    moved: dict[str, str] = {}
    if any(group.is_merged for group in groups):
        files, moved, games = _merge_groups(folder, old, groups, games)
    if moved or len(old.get(GAMES, [])) > 1 or games.num_rows < sum(record.rows for record in old.get(GAMES, [])):
        files[GAMES] = [store_rows(folder, GAMES, games, GAMES_SCHEMA)] if games.num_rows else []
    rejects = _live_rows(folder, state, REJECTS, REJECTS_SCHEMA, old)
    if len(old.get(REJECTS, [])) > 1 or rejects.num_rows < sum(record.rows for record in old.get(REJECTS, [])):
        files[REJECTS] = [store_rows(folder, REJECTS, rejects, REJECTS_SCHEMA)] if rejects.num_rows else []
    if files:
        retired = {table: [record.name for record in old[table]] for table in files}
        yield {"files": files, "retired": retired, "moved": moved}


def _live_rows(
    folder: Folder, state: CorpusState, table: str, schema: pa.Schema, old: dict[str, list[FileRecord]]
) -> pa.Table:
    part = replace(state, files={table: old.get(table, [])})
    return part.read_rows(table, schema, lambda path: read_parquet(folder, path, schema)).combine_chunks()


def _groups(shards: Sequence[FileRecord], games: pa.Table, limits: Limits) -> Iterator[_Group]:
    live: dict[str, list[_Live]] = {record.name: [] for record in shards}
    names = ("shard", "game_id", "num_frames", "first_row", "row_group")
    for row, (shard, *facts) in enumerate(zip(*(games[name].to_pylist() for name in names), strict=True)):
        if shard in live:  # not one of the files that are kept
            live[shard].append(_Live(row, *facts))
    small = [record for record in shards if record.num_bytes < limits.small_bytes]
    is_too_much = limits.max_bytes is not None and sum(record.num_bytes for record in small) > limits.max_bytes
    current: list[FileRecord] = []

    def close() -> Iterator[_Group]:
        if current:
            members = [live[record.name] for record in current]
            is_merged = (
                len(current) > 1 or (limits.purge and _has_dead_rows(current[0], members[0])) or not any(members)
            )
            yield _Group(list(current), members, is_merged)
            current.clear()

    for record in shards:
        if is_too_much or record.num_bytes >= limits.small_bytes:
            yield from close()
            current.append(record)
            yield from close()
        else:
            current.append(record)
            if sum(one.num_bytes for one in current) >= limits.target_bytes:
                yield from close()
    yield from close()


def _has_dead_rows(record: FileRecord, games: Sequence[_Live]) -> bool:
    return sum(game.num_frames for game in games) < record.rows


def _merge_groups(
    folder: Folder, old: dict[str, list[FileRecord]], groups: Sequence[_Group], games: pa.Table
) -> tuple[dict[str, list[FileRecord]], dict[str, str], pa.Table]:
    """Files by table, old shard -> new shard, and the games table with the new positions."""
    tables = [table for table in old if table not in (GAMES, REJECTS)]
    existing = {table: {record.name: record for record in old[table]} for table in tables}
    files: dict[str, list[FileRecord]] = {table: [] for table in tables}
    moved: dict[str, str] = {}
    columns = {name: games[name].to_pylist() for name in ("shard", "first_row", "row_group", "row_in_group")}
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    merge = lambda group: (group, _merge(folder, group, existing))  # noqa: E731
    for group, merged in map_in_order(merge, groups, num_threads):
        for table, record in merged.files.items():
            files[table].append(record)
        for row, position in merged.positions:
            for name, value in position.items():
                columns[name][row] = value
        if group.is_merged and FRAMES in merged.files:
            moved |= {record.name: merged.files[FRAMES].name for record in group.records}
    for name, values in columns.items():
        index = games.schema.get_field_index(name)
        games = games.set_column(index, games.schema.field(index), pa.array(values, games.schema.field(index).type))
    return files, moved, games


def _merge(folder: Folder, group: _Group, existing: dict[str, dict[str, FileRecord]]) -> _Merged:
    if not group.is_merged:
        name = group.records[0].name
        return _Merged({table: records[name] for table, records in existing.items() if name in records}, [])
    games = [game for members in group.games for game in members]
    if not games:
        return _Merged({}, [])
    digest = hashlib.blake2b("/".join(record.name for record in group.records).encode(), digest_size=16)
    digest.update("/".join(game.game_id for game in games).encode())
    name = f"{digest.hexdigest()}.parquet"
    positions = row_positions([game.num_frames for game in games])
    files = {}
    with tempfile.TemporaryDirectory(prefix="wm-compact-") as scratch_name:
        scratch = Path(scratch_name)
        for table, records in existing.items():
            sources = [
                (record.name, members)
                for record, members in zip(group.records, group.games, strict=True)
                if members and record.name in records
            ]
            if sources:
                record = _merge_table(folder, table, name, sources, scratch)
                if record is not None:
                    files[table] = record
    return _Merged(files, [(game.row, at | {"shard": name}) for game, at in zip(games, positions, strict=True)])


def _merge_table(
    folder: Folder, table: str, name: str, sources: Sequence[tuple[str, Sequence[_Live]]], scratch: Path
) -> FileRecord | None:
    """Write one merged file; None if it has no rows."""
    if folder.exists(f"{table}/{name}"):  # written by a merge that was killed
        path = local_copy(folder, f"{table}/{name}", scratch)
        return file_record(path, pq.read_metadata(path).num_rows)
    first = local_copy(folder, f"{table}/{sources[0][0]}", scratch)
    target = scratch / f"{table}-{name}"
    writer = ShardWriter(target, pq.read_schema(first))
    for source, members in sources:
        path = local_copy(folder, f"{table}/{source}", scratch)
        for rows in _rows_of_games(path, members) if table == FRAMES else _rows_with_ids(path, members):
            writer.add(rows)
        if path.is_relative_to(scratch):
            path.unlink()
    num_rows = writer.close()
    if not num_rows:
        return None
    record = file_record(target, num_rows)._replace(name=name)
    folder.upload(target, f"{table}/{name}", move=True)
    return record


def _rows_of_games(path: Path, games: Sequence[_Live]) -> Iterator[pa.Table]:
    """The frames of each game, in the order of the shard."""
    first_row = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            members = [game for game in games if game.row_group == group]
            if members:
                table = file.read_row_group(group, use_threads=False)
                for game in members:
                    yield _without_other_ids(table.slice(game.first_row - first_row, game.num_frames))
            first_row += file.metadata.row_group(group).num_rows


def _rows_with_ids(path: Path, games: Sequence[_Live]) -> Iterator[pa.Table]:
    """The rows of some games, for a table in which a game may have any number of them."""
    wanted = pa.array([game.game_id for game in games])
    table = pq.read_table(path, use_threads=False)
    rows = table.filter(pc.is_in(table["game_id"].cast(pa.string()), wanted))  # pyrefly: ignore
    if rows.num_rows:
        yield _without_other_ids(rows)


def _without_other_ids(rows: pa.Table) -> pa.Table:
    """The same rows, with a dictionary that holds only their own game ids."""
    ids = rows["game_id"].cast(pa.string()).dictionary_encode()
    return rows.set_column(0, "game_id", ids).cast(rows.schema)
