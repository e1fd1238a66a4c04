"""Checks of a corpus's files: each against its record, then the tables against one another."""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus.commit_log import map_in_order
from datasets.corpus.data_files import file_record, local_copy, read_parquet
from datasets.corpus.dedupe import Row
from datasets.corpus.state import FOLLOWERS, FRAMES, GAMES, REJECTS, CorpusState, FileRecord
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.schema.columns import FIRST_FRAME_ID, FOLLOWERS_SCHEMA, FRAMES_SCHEMA, GAMES_SCHEMA, REJECTS_SCHEMA
from datasets.schema.optional_tables import OPTIONAL_TABLES, ROW_COUNTS
from datasets.schema.splits import split_number

SCHEMAS: dict[str, pa.Schema] = {
    FRAMES: FRAMES_SCHEMA,
    FOLLOWERS: FOLLOWERS_SCHEMA,
    GAMES: GAMES_SCHEMA,
    REJECTS: REJECTS_SCHEMA,
    **OPTIONAL_TABLES,
}
COUNTS: dict[str, str] = {FOLLOWERS: "num_follower_rows", **ROW_COUNTS}
"""Table -> column of the games table with the number of a game's rows."""
MAX_THREADS = 16
"""Checksums and Parquet release the GIL; beyond this many threads storage is the bottleneck."""
DAMAGE = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, pa.ArrowException)
"""Exceptions that reading a damaged file may raise."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A defect in a corpus."""

    message: str
    path: str
    """File that has the defect, from the corpus's folder."""
    game_id: str | None = None
    """Set if only this game is affected, and the file is sound without it."""


@dataclass(kw_only=True)
class Findings:
    """What was read, and the defects."""

    problems: list[Problem] = field(default_factory=list)
    games: pa.Table = field(default_factory=GAMES_SCHEMA.empty_table)
    """Rows of the games table in intact files."""
    rejects: pa.Table = field(default_factory=REJECTS_SCHEMA.empty_table)
    num_bytes: int = 0
    """Bytes of all files read."""

    @property
    def damaged_files(self) -> set[str]:
        """Paths of files that cannot be used."""
        return {problem.path for problem in self.problems if problem.game_id is None}

    @property
    def damaged_games(self) -> set[str]:
        """Games that cannot be used although their file can."""
        return {problem.game_id for problem in self.problems if problem.game_id is not None}


def check_files(folder: Folder, state: CorpusState, on_bytes: Callable[[int], None]) -> Findings:
    """Read every byte of a corpus, with several threads.

    Args:
        on_bytes: called with the bytes read so far.
    Raises:
        UserError: this user may not read a file.
    """
    found = Findings()
    for table, schema in ((GAMES, GAMES_SCHEMA), (REJECTS, REJECTS_SCHEMA)):
        paths = {f"{table}/{record.name}": record for record in state.files.get(table, ())}
        _check(folder, paths, found, on_bytes)
        intact = [record for path, record in paths.items() if path not in found.damaged_files]
        part = replace(state, files={table: intact})
        rows = part.read_rows(table, schema, lambda path, schema=schema: read_parquet(folder, path, schema))
        setattr(found, table, rows)
    games: dict[str, list[Row]] = defaultdict(list)
    for row in found.games.to_pylist():
        games[row["shard"]].append(row)
    found.problems += _game_problems(state, found.games)
    others = {path: record for path, record in state.paths().items() if path.split("/")[0] not in (GAMES, REJECTS)}
    _check(folder, others, found, on_bytes, games)
    found.problems += _missing_rows(state, games)
    return found


def check_some_files(folder: Folder, paths: dict[str, FileRecord]) -> Findings:
    """Compare some files of a corpus with their records: bytes, checksum, rows and columns.

    Args:
        paths: from the corpus's folder.
    Raises:
        UserError: this user may not read a file.
    """
    found = Findings()
    _check(folder, paths, found, lambda num_bytes: None)
    return found


def _check(
    folder: Folder,
    paths: dict[str, FileRecord],
    found: Findings,
    on_bytes: Callable[[int], None],
    games: dict[str, list[Row]] | None = None,
) -> None:
    def check(item: tuple[str, FileRecord]) -> list[Problem]:
        path, record = item
        with tempfile.TemporaryDirectory(prefix="wm-verify-") as scratch:
            try:
                table = path.split("/")[0]
                local = local_copy(folder, path, Path(scratch))
                problems = list(_file_problems(local, path, record))
                if not problems and games is not None:
                    problems += _content_problems(local, path, table, games.get(record.name, []))
                return problems
            except PermissionError as error:
                raise UserError(f"no permission to read {error.filename}; check it as the user who owns it") from error
            except FileNotFoundError:
                return [Problem("it is missing", path)]
            except DAMAGE as error:
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                return [Problem(f"it cannot be checked ({reason})", path)]

    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    for problems, record in zip(map_in_order(check, paths.items(), num_threads), paths.values(), strict=True):
        found.problems += problems
        found.num_bytes += record.num_bytes
        on_bytes(found.num_bytes)


def _file_problems(local: Path, path: str, record: FileRecord) -> Iterator[Problem]:
    """Rows are checked only if the bytes are intact."""
    found = file_record(local, record.rows)
    if found.num_bytes != record.num_bytes:
        yield Problem(f"it has {found.num_bytes:,} bytes, expected {record.num_bytes:,}", path)
        return
    if record.blake2b is not None and found.blake2b != record.blake2b:
        yield Problem("it has a checksum mismatch", path)
        return
    schema = SCHEMAS.get(path.split("/", maxsplit=1)[0])
    if schema is None:
        yield Problem("it is in an unknown table", path)
        return
    with pq.ParquetFile(local) as file:
        if file.metadata.num_rows != record.rows:
            yield Problem(f"it has {file.metadata.num_rows:,} rows, expected {record.rows:,}", path)
        optional = {name for name in schema.names if schema.field(name).nullable}
        expected = [field for field in schema if field.name in file.schema_arrow.names or field.name not in optional]
        if not file.schema_arrow.equals(pa.schema(expected), check_metadata=False):
            yield Problem("it does not have the columns of its table", path)


def _content_problems(local: Path, path: str, table: str, games: list[Row]) -> Iterator[Problem]:
    return _frames_problems(local, path, games) if table == FRAMES else _rows_problems(local, path, table, games)


def _frames_problems(local: Path, path: str, games: list[Row]) -> Iterator[Problem]:
    """Each game's rows are where the games table says: complete, and with gapless frame ids."""
    first_row = 0
    with pq.ParquetFile(local) as file:
        for group in range(file.num_row_groups):
            members = [game for game in games if game["row_group"] == group]
            if members:
                table = file.read_row_group(group, columns=["game_id", "frame"], use_threads=False)
                ids, frames = table["game_id"].cast(pa.string()), table["frame"].to_numpy()
                for game in members:
                    at, length = game["first_row"] - first_row, game["num_frames"]
                    is_right = (
                        at >= 0
                        and at + length <= table.num_rows
                        and game["row_in_group"] in (at, None)
                        and pc.all(pc.equal(ids.slice(at, length), game["game_id"])).as_py()  # pyrefly: ignore
                        and np.array_equal(frames[at : at + length], np.arange(length) + FIRST_FRAME_ID)
                    )
                    if not is_right:
                        message = f"game {game['game_id']} is not at its rows, or has frame ids with a gap"
                        yield Problem(message, path, game["game_id"])
            first_row += file.metadata.row_group(group).num_rows
        for game in games:
            if game["row_group"] >= file.num_row_groups:
                yield Problem(f"game {game['game_id']} is in a row group that is missing", path, game["game_id"])


def _rows_problems(local: Path, path: str, table: str, games: list[Row]) -> Iterator[Problem]:
    """Rows of a game lie within its frames, are sorted, and are as many as the games table says."""
    names = ["game_id", "frame", *(["player"] if table == FOLLOWERS else [])]
    rows = pq.read_table(local, columns=names)
    ids = rows["game_id"].cast(pa.string())
    for game in games:
        own = rows.filter(pc.equal(ids, game["game_id"]))  # pyrefly: ignore
        frames = own["frame"].to_numpy().astype(np.int64) - FIRST_FRAME_ID
        players = own["player"].to_numpy().astype(np.int64) if table == FOLLOWERS else np.zeros_like(frames)
        steps = np.diff((players << 32) + frames)
        is_sorted = (steps > 0).all() if table == FOLLOWERS else (steps >= 0).all()
        is_right = is_sorted and ((frames >= 0) & (frames < game["num_frames"])).all() and (players < 2).all()
        if own.num_rows != (game[COUNTS[table]] or 0):
            is_right = False
        if not is_right:
            message = f"game {game['game_id']} has other rows than the games table says, or rows that are not sorted"
            yield Problem(message, path, game["game_id"])


def _game_problems(state: CorpusState, games: pa.Table) -> Iterator[Problem]:
    shards = {record.name for record in state.files.get(FRAMES, ())}
    seen: set[str] = set()
    for game in games.to_pylist():
        path, game_id = f"{FRAMES}/{game['shard']}", game["game_id"]
        if game["split_number"] != split_number(game["split_key"]):
            message = f"game {game_id} has a split number that is not its key's, so a match may be in two splits"
            yield Problem(message, path, game_id)
        if not {game_id, game["fingerprint"]}.isdisjoint(seen):
            yield Problem(f"game {game_id} is in the corpus twice", path, game_id)
        seen |= {game_id, game["fingerprint"]}
        if game["shard"] not in shards:
            yield Problem(f"game {game_id} is in a shard that the corpus does not have", path, game_id)


def _missing_rows(state: CorpusState, games: dict[str, list[Row]]) -> Iterator[Problem]:
    """Games with rows in a file that the corpus does not have."""
    if state.format_version == 2:
        return
    for table, count in COUNTS.items():
        names = {record.name for record in state.files.get(table, ())}
        for shard, members in games.items():
            for game in members:
                if game[count] and shard not in names:
                    message = f"game {game['game_id']} lacks its rows in {table}"
                    yield Problem(message, f"{FRAMES}/{shard}", game["game_id"])


def count_problems(state: CorpusState, games: pa.Table, rejects: pa.Table, path: str) -> Iterator[Problem]:
    """Totals that differ from those of the tables."""
    codes: Sequence[str] = rejects["code"].to_pylist()
    pairs = {
        "num_games": (state.num_games, games.num_rows),
        "num_frames": (state.num_frames, pc.sum(games["num_frames"]).as_py() or 0),  # pyrefly: ignore
        "rejects": (dict(state.rejects), dict(Counter(codes))),
    }
    for name, (stated, counted) in pairs.items():
        if stated != counted:
            yield Problem(f"{name}: {stated}, but the tables hold {counted}", path)
