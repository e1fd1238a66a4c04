"""The commits of a corpus: their file names, their revisions, and how they are read.

A commit is `000012.json`. When games are removed from it, new data files are written and then its revision
`000012-1.json`, which supersedes it: a commit is never changed in place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from datasets.runtime.errors import UserError
from datasets.schema.columns import FORMAT_VERSION

COMMITS = "commits"
"""Folder in a corpus."""
READING_THREADS = 16
"""Reading small files on shared storage is mostly waiting."""

Commit = dict[str, Any]
"""Content of a file in commits/:

    format_version, options    as in `corpus.json`, which can be rebuilt from the commits
    inputs                     keys of the inputs that it accounts for: each became one of its games or rejects
    files                      table -> {name, rows, bytes, blake2b}
    games                      [game_id, fingerprint, num_frames] of each game, in the order of its rows
    parsed                     game_ids of games that came from an older pipeline's form
    rejects                    reason code -> count
    replaced                   game_ids of games in earlier commits that its games replace
    checksum                   of all other fields
"""


class OtherFormatError(UserError):
    """A corpus with another format version."""


_NAME = re.compile(r"(\d{6,})(?:-(\d+))?\.json")
Item = TypeVar("Item")
Value = TypeVar("Value")


def commit_stem(number: int, revision: int = 0) -> str:
    """Common part of the names of a commit's files."""
    return f"{number:06d}-{revision}" if revision else f"{number:06d}"


def number_and_revision(name: str) -> tuple[int, int]:
    """Number and revision of a commit, from its file name.

    Raises:
        ValueError: it is not the name of a commit.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise ValueError(f"{name} is not the name of a commit")
    return int(matched[1]), int(matched[2] or 0)


def list_commits(root: Path) -> tuple[list[str], list[str]]:
    """File names of the current commits, in order, and of superseded revisions, oldest first."""
    folder = root / COMMITS
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    ordered = sorted(number_and_revision(name) for name in names if _NAME.fullmatch(name))
    newest = dict(ordered)
    current = [f"{commit_stem(*pair)}.json" for pair in newest.items()]
    return current, [f"{commit_stem(*pair)}.json" for pair in ordered if newest[pair[0]] != pair[1]]


def with_checksum(commit: Commit) -> Commit:
    """A commit with its checksum: 128 bits of blake2b over the JSON of all other fields, with sorted keys."""
    content = {name: value for name, value in commit.items() if name != "checksum"}
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16)
    return content | {"checksum": digest.hexdigest()}


def damaged_commit_error(root: Path, name: str, reason: str) -> UserError:
    """The error for a commit that cannot be read."""
    return UserError(
        f"{root / COMMITS / name} is missing or damaged ({reason}); `wm corpus repair {root}` drops it, "
        "and `wm encode` then encodes its inputs again"
    )


def read_commit(root: Path, name: str) -> Commit:
    """Read one commit.

    Raises:
        UserError: it is missing or damaged, or has another format version.
    """
    try:
        commit = json.loads((root / COMMITS / name).read_text())
        version = commit["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_commit_error(root, name, type(error).__name__) from error
    if version != FORMAT_VERSION:
        raise OtherFormatError(
            f"{root} has commits of corpus format {version}, this version reads {FORMAT_VERSION}; "
            "encode the replays again into a new folder"
        )
    if commit != with_checksum(commit):
        raise damaged_commit_error(root, name, "checksum mismatch")
    return commit


def read_commits(root: Path, names: Iterable[str]) -> Iterator[tuple[str, Commit]]:
    """Read commits concurrently, in the given order.

    Raises:
        UserError: one is missing or damaged, or has another format version.
    """
    return map_in_order(lambda name: (name, read_commit(root, name)), names, READING_THREADS)


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
