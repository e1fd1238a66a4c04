"""The commits of a corpus: what their files are called, which of their revisions counts, how they are read.

A commit is `000012.json`. When games leave it, new data files are written and then its revision
`000012-1.json`, which counts from then on: a commit is never changed in place.
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
"""Small files on shared storage: the time goes into waiting."""

Commit = dict[str, Any]
"""Content of a file in commits/:

    format_version, options    as in `corpus.json`, which can be made again from the commits
    inputs                     keys of the inputs it accounts for: each is one of its games or one of its rejects
    files                      table -> {name, rows, bytes, blake2b}
    games                      [game_id, fingerprint, num_frames] of each, in the order of its rows
    parsed                     game_ids of those that came from an older pipeline's form
    rejects                    reason code -> number
    replaced                   game_ids of games in earlier commits that its games take the place of
    checksum                   of all the others
"""


class OtherFormatError(UserError):
    """A corpus of another format version."""


_NAME = re.compile(r"(\d{6,})(?:-(\d+))?\.json")
Item = TypeVar("Item")
Value = TypeVar("Value")


def commit_stem(number: int, revision: int = 0) -> str:
    """What the names of a commit's files have in common."""
    return f"{number:06d}-{revision}" if revision else f"{number:06d}"


def number_and_revision(name: str) -> tuple[int, int]:
    """Number of a commit and of its revision, from its file's name.

    Raises:
        ValueError: it is no name of a commit.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise ValueError(f"{name} is no name of a commit")
    return int(matched[1]), int(matched[2] or 0)


def list_commits(root: Path) -> tuple[list[str], list[str]]:
    """File names of the commits that count, in order, and of older revisions of these, oldest first."""
    folder = root / COMMITS
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    ordered = sorted(number_and_revision(name) for name in names if _NAME.fullmatch(name))
    newest = dict(ordered)
    live = [f"{commit_stem(*pair)}.json" for pair in newest.items()]
    return live, [f"{commit_stem(*pair)}.json" for pair in ordered if newest[pair[0]] != pair[1]]


def with_checksum(commit: Commit) -> Commit:
    """A commit with the checksum of all else that it says: 128 bits of blake2b over its JSON with sorted names."""
    content = {name: value for name, value in commit.items() if name != "checksum"}
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16)
    return content | {"checksum": digest.hexdigest()}


def damaged_commit_error(root: Path, name: str, reason: str) -> UserError:
    """What a user is told of a commit that cannot be read."""
    return UserError(
        f"{root / COMMITS / name} is missing or damaged ({reason}); `wm corpus repair {root}` drops what it held, "
        "and `wm encode` then brings that back"
    )


def read_commit(root: Path, name: str) -> Commit:
    """Read one commit.

    Raises:
        UserError: it is missing, damaged or of another format version.
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
        raise damaged_commit_error(root, name, "its checksum is another")
    return commit


def read_commits(root: Path, names: Iterable[str]) -> Iterator[tuple[str, Commit]]:
    """Read commits, some ahead, in the order of their names' list.

    Raises:
        UserError: one is missing, damaged or of another format version.
    """
    return map_in_order(lambda name: (name, read_commit(root, name)), names, READING_THREADS)


def map_in_order(function: Callable[[Item], Value], items: Iterable[Item], num_threads: int) -> Iterator[Value]:
    """`map` with threads: results in order, and at most two items a thread under way at once."""
    with ThreadPoolExecutor(num_threads) as pool:
        under_way: deque[Future[Value]] = deque()
        for item in items:
            under_way.append(pool.submit(function, item))
            if len(under_way) >= 2 * num_threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
