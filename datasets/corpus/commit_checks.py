"""Checks of one commit: its files match what it records, and they agree with one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus.commit_files import FileRecord, Row, file_record
from datasets.corpus.commit_log import Commit, OtherFormatError, read_commit
from datasets.corpus.dedupe import SLP
from datasets.corpus.manifest import FOLLOWERS, FRAMES, GAMES, REJECTS
from datasets.runtime.errors import UserError
from datasets.schema.columns import (
    FIRST_FRAME_ID,
    FOLLOWERS_SCHEMA,
    FRAMES_SCHEMA,
    GAMES_SCHEMA,
    NUM_PLAYERS,
    REJECTS_SCHEMA,
)
from datasets.schema.splits import split_number

SCHEMAS = {FRAMES: FRAMES_SCHEMA, FOLLOWERS: FOLLOWERS_SCHEMA, GAMES: GAMES_SCHEMA, REJECTS: REJECTS_SCHEMA}
DAMAGE = (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, pa.ArrowException)
"""Exceptions that reading a damaged commit may raise."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A defect in a corpus."""

    message: str
    commit: str | None = None
    """File name of the affected commit; None for `corpus.json`."""
    game_id: str | None = None
    """Set if only this game is affected, and the commit is sound without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedCommit:
    """The result of checking one commit."""

    name: str
    commit: Commit | None
    """None if it cannot be read."""
    problems: tuple[Problem, ...]
    num_bytes: int
    """Bytes of the files that were read."""


def check_commit(root: Path, name: str) -> CheckedCommit:
    """Read all files of a commit and compare them with what it records.

    Raises:
        UserError: the commit has another format version, or this user may not read it.
    """
    try:
        commit = read_commit(root, name)
    except OtherFormatError:
        raise
    except UserError as error:
        return CheckedCommit(name=name, commit=None, problems=(_problem(name, str(error)),), num_bytes=0)
    messages: list[str] = []
    num_bytes = 0
    try:
        for table, record in commit["files"].items():
            num_bytes += record["bytes"]
            messages += _file_problems(root, table, record)
        if not messages:  # parse Parquet only if its bytes are intact
            messages += _content_problems(root, commit)
    except PermissionError as error:
        raise UserError(f"no permission to read {error.filename}; check the corpus as the user who owns it") from error
    except DAMAGE as error:
        messages.append(f"it cannot be checked ({type(error).__name__}: {str(error).splitlines()[0][:200]})")
    problems = tuple(_problem(name, message) for message in messages)
    return CheckedCommit(name=name, commit=commit, problems=problems, num_bytes=num_bytes)


def _problem(name: str, message: str) -> Problem:
    return Problem(message=message, commit=name)


def _file_problems(root: Path, table: str, record: FileRecord) -> Iterator[str]:
    """Rows are checked only if the bytes are intact."""
    path = root / table / record["name"]
    where = f"{table}/{record['name']}"
    if table not in SCHEMAS:
        yield f"{where} is in an unknown table"
        return
    if not path.exists():
        yield f"{where} is missing"
        return
    found = file_record(path, record["rows"])
    if found["bytes"] != record["bytes"]:
        yield f"{where} has {found['bytes']:,} bytes, expected {record['bytes']:,}"
        return
    if found["blake2b"] != record["blake2b"]:
        yield f"{where} has a checksum mismatch"
        return
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != record["rows"]:
            yield f"{where} has {file.metadata.num_rows:,} rows, expected {record['rows']:,}"
        if not file.schema_arrow.equals(SCHEMAS[table], check_metadata=False):
            yield f"{where} does not have the columns of its table"


def _content_problems(root: Path, commit: Commit) -> Iterator[str]:
    files: dict[str, FileRecord] = commit["files"]
    games = _rows(root, GAMES, files)
    rejects = _rows(root, REJECTS, files)
    num_inputs = len(commit["inputs"])
    if num_inputs != len(games) + len(rejects):
        yield f"{num_inputs} inputs became {len(games)} games and {len(rejects)} rejects; the sum must equal the inputs"
    yield from _reject_problems(commit, rejects)
    yield from _game_problems(commit, games)
    if bool(games) != (FRAMES in files):
        yield "it has games without frames, or frames without games"
    elif games:
        yield from _frames_problems(root / FRAMES / files[FRAMES]["name"], games)
    if FOLLOWERS in files:
        yield from _follower_problems(root / FOLLOWERS / files[FOLLOWERS]["name"], games)


def _rows(root: Path, table: str, files: dict[str, FileRecord]) -> list[Row]:
    if table not in files:
        return []
    return pq.read_table(root / table / files[table]["name"], schema=SCHEMAS[table]).to_pylist()


def _reject_problems(commit: Commit, rejects: list[Row]) -> Iterator[str]:
    counts = Counter(reject["code"] for reject in rejects)
    if counts != commit["rejects"]:
        yield f"its rejects are {dict(counts)}, expected {commit['rejects']}"
    if not all(reject["message"] for reject in rejects):
        yield "a reject has no message"


def _game_problems(commit: Commit, games: list[Row]) -> Iterator[str]:
    found = [[game["game_id"], game["fingerprint"], game["num_frames"]] for game in games]
    if found != commit["games"]:
        yield "its games table lists different games than the commit"
    if [game["game_id"] for game in games if game["form"] != SLP] != commit["parsed"]:
        yield "its games table and the commit disagree on which games came from an older pipeline"
    for game in games:
        if game["split_number"] != split_number(game["split_key"]):
            yield f"game {game['game_id']} has a split number that is not its key's, so a match may be in two splits"


def _frames_problems(path: Path, games: list[Row]) -> Iterator[str]:
    """Each game's rows are where the games table says: complete, and with gapless frame ids."""
    num_rows = 0
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            members = [game for game in games if game["row_group"] == group]
            table = file.read_row_group(group, columns=["game_id", "frame"], use_threads=False)
            if sum(game["num_frames"] for game in members) != table.num_rows:
                yield f"row group {group} of frames/{path.name} does not hold the games that the games table lists"
                return
            for game in members:
                if game["first_row"] != num_rows:
                    yield f"game {game['game_id']} does not start at row {game['first_row']} of frames/{path.name}"
                num_rows += game["num_frames"]
            yield from _row_problems(table, members)
    if num_rows != sum(game["num_frames"] for game in games) or {game["shard"] for game in games} != {path.name}:
        yield f"the games table lists rows that frames/{path.name} does not have"


def _row_problems(table: pa.Table, members: list[Row]) -> Iterator[str]:
    lengths = [game["num_frames"] for game in members]
    owners = np.repeat(np.arange(len(members)), lengths)
    frames = np.concatenate([np.arange(FIRST_FRAME_ID, FIRST_FRAME_ID + length) for length in lengths])
    is_right = (table["frame"].to_numpy() == frames) & (_game_indices(table, members) == owners)
    for index in np.unique(owners[~is_right]):
        yield f"game {members[index]['game_id']} has rows of another game, or frame ids with a gap"


def _follower_problems(path: Path, games: list[Row]) -> Iterator[str]:
    """Each row belongs to an existing game, player and frame; rows are sorted and unique."""
    table = pq.read_table(path, columns=["game_id", "frame", "player"])
    indices = _game_indices(table, games)
    frames = table["frame"].to_numpy().astype(np.int64) - FIRST_FRAME_ID
    players = table["player"].to_numpy()
    num_frames = np.array([game["num_frames"] for game in games])
    if (indices < 0).any() or (players >= NUM_PLAYERS).any():
        yield f"followers/{path.name} has rows that belong to no game or player of its commit"
    elif ((frames < 0) | (frames >= num_frames[indices])).any():
        yield f"followers/{path.name} has frames that its games do not have"
    elif (np.diff((indices * NUM_PLAYERS + players << 32) + frames) <= 0).any():
        yield f"followers/{path.name} has duplicate or unsorted rows"


def _game_indices(table: pa.Table, games: list[Row]) -> np.ndarray:
    """Index of each row's game in a list of games, or -1: int64 (rows,)."""
    ids = table["game_id"].combine_chunks()
    known = pa.array([game["game_id"] for game in games])
    indices = pc.index_in(ids.dictionary, value_set=known).fill_null(-1).to_numpy()  # pyrefly: ignore
    return indices.astype(np.int64)[ids.indices.to_numpy()]
