"""The commits of a corpus: one small object for many chunks, created atomically, never changed.

`commits/000012.json` holds what changed since commit 11. `commits/000012-full.json` holds everything, and supersedes
all earlier ones: `wm corpus repair` writes it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from datasets.corpus.state import STATE_VERSION, damaged_error, dump_json, load_json
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder

COMMITS = "commits"
"""Folder in a corpus."""
READING_THREADS = 16
"""Reading small files on shared storage is mostly waiting."""

Commit = dict[str, Any]
"""Content of a file in commits/:

    format_version, options
    replaces_all      whether it supersedes all earlier commits
    inputs            keys of the inputs that it accounts for: each became one of its games or rejects
    games             [game_id, fingerprint, num_frames] of each game, in the order of the corpus
    parsed            game_id -> origin and shard of its games that came from an older pipeline's form
    files             table -> [name, rows, bytes, blake2b] of new files, in the order of the corpus
    rejects           reason code -> number of its rejects
    removed_games     [game_id, shard, num_frames] of games of earlier commits that are no longer part of the corpus
    removed_rejects   [key, file, code] of rejects of earlier commits that are no longer part of the corpus
    retired           table -> names of files of earlier commits that its files replace
    moved             shard of an earlier commit -> shard that holds its games now
    checksum          of all other fields
"""

_NAME = re.compile(rf"{COMMITS}/(\d{{6,}})(-full)?\.json")
Item = TypeVar("Item")
Value = TypeVar("Value")


def commit_path(number: int, *, replaces_all: bool = False) -> str:
    """Path of a commit from the corpus's folder."""
    return f"{COMMITS}/{number:06d}{'-full' if replaces_all else ''}.json"


def commit_number(path: str) -> int:
    """Number of the commit at a path."""
    match = _NAME.fullmatch(path)
    assert match is not None
    return int(match[1])


def new_commit(options: dict[str, Any], **fields: Any) -> Commit:
    """A commit with some fields; the others are empty."""
    return {
        "format_version": STATE_VERSION,
        "options": options,
        "replaces_all": False,
        "inputs": [],
        "games": [],
        "parsed": {},
        "files": {},
        "rejects": {},
        "removed_games": [],
        "removed_rejects": [],
        "retired": {},
        "moved": {},
    } | fields


def list_commits(folder: Folder) -> tuple[list[str], list[str]]:
    """Paths of the commits that count, in order, and of those that a later one supersedes.

    A number that is missing is listed as well, so that reading it fails.
    """
    numbers: dict[int, str] = {}
    full: dict[int, str] = {}
    for info in folder.list(COMMITS):
        if match := _NAME.fullmatch(info.path):
            (full if match[2] else numbers)[int(match[1])] = info.path
    first = max(full, default=0)
    current = {number: path for number, path in numbers.items() if number > first or (number == 0 and not full)}
    if full:
        current[first] = full[first]
    paths = [current.get(number, commit_path(number)) for number in range(first, max(current, default=-1) + 1)]
    return paths, sorted({*numbers.values(), *full.values()} - set(paths))


def write_commit(folder: Folder, number: int, commit: Commit) -> None:
    """Create a commit.

    Raises:
        UserError: another process has created it.
    """
    try:
        folder.create(commit_path(number, replaces_all=commit["replaces_all"]), dump_json(commit))
    except FileExistsError as error:
        raise UserError(
            f"another command has written commit {number} of {folder.location} meanwhile; this one ends, and its "
            "commits before that are kept; run it again after the other one has ended"
        ) from error


def write_full_commit(folder: Folder, options: dict[str, Any], fields: dict[str, Any], paths: list[str]) -> None:
    """Create a commit that supersedes all others, given the paths of those that there are."""
    number = max((commit_number(path) for path in paths), default=-1) + 1
    write_commit(folder, number, new_commit(options, replaces_all=True, **fields))


def read_commit(folder: Folder, path: str) -> Commit:
    """Read one commit.

    Raises:
        DamagedError: it is missing or damaged.
        OtherFormatError: it has another format version.
    """
    try:
        commit = load_json(folder, path, folder.read(path), (STATE_VERSION,))
    except FileNotFoundError as error:
        raise damaged_error(folder, path, "missing") from error
    if missing := new_commit({}).keys() - commit.keys():
        raise damaged_error(folder, path, f"no field {min(missing)}")
    return commit


def read_commits(folder: Folder, paths: Iterable[str]) -> Iterator[Commit]:
    """Read commits concurrently, in the given order; raises as `read_commit` does."""
    return map_in_order(lambda path: read_commit(folder, path), paths, READING_THREADS)


def map_in_order(function: Callable[[Item], Value], items: Iterable[Item], num_threads: int) -> Iterator[Value]:
    """`map` with threads: results in order, with at most two items per thread in flight."""
    with ThreadPoolExecutor(num_threads) as pool:
        in_flight: deque[Future[Value]] = deque()
        for item in items:
            in_flight.append(pool.submit(function, item))
            if len(in_flight) >= 2 * num_threads:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()
