"""`corpus.json` and the folders that it lists.

A file that no commit lists is not part of the corpus; a commit that `corpus.json` does not list is not visible yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets.corpus.commit_log import COMMITS, READING_THREADS, OtherFormatError, map_in_order
from datasets.runtime.durable_files import TEMPORARY_PATTERN
from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from datasets.schema.columns import FORMAT_VERSION

CORPUS_FILE = "corpus.json"
IN_PROGRESS_FILE = "encoding.json"
"""Exists while an encode runs and after one was interrupted; holds its options."""
LOCK_FILE = "encode.lock"
"""Locked by the process that writes."""
LOG_FILE = "encode.log"
"""Progress of each encode, one line every half minute."""
FRAMES, FOLLOWERS, GAMES, REJECTS, STAGING = "frames", "followers", "games", "rejects", "staging"
TABLES = (FRAMES, FOLLOWERS, GAMES, REJECTS)
"""Folders of data files; a commit has at most one file in each."""
FileSummaries = dict[str, tuple[str, int, int]]
"""Table -> name, rows and bytes of a commit's file in it."""
STAT_BATCH = 64
"""Files that one thread checks per task."""


def build_manifest(
    options: dict[str, Any],
    counts: dict[str, Any],
    commits: Iterable[tuple[str, FileSummaries]],
) -> dict[str, Any]:
    """Content of `corpus.json`.

    Args:
        counts: `num_games`, `num_frames` and `rejects` by reason.
        commits: file name and files of each commit, in order.
    """
    names: list[str] = []
    files: dict[str, list[tuple[str, int, int]]] = {table: [] for table in TABLES}
    for name, files_of_commit in commits:
        names.append(name)
        for table, file in files_of_commit.items():
            files[table].append(file)
    return {
        "format_version": FORMAT_VERSION,
        "tool_version": tool_version(),
        "options": options,
        **counts,
        "commits": names,
        "files": files,
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Read corpus.json or encoding.json and check its format version.

    Raises:
        UserError: the file is damaged or has another format version.
    """
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); `wm corpus repair {path.parent}` rebuilds it"
        ) from error
    if version != FORMAT_VERSION:
        raise OtherFormatError(
            f"{path.parent} has corpus format {version}, this version reads {FORMAT_VERSION}; "
            "encode the replays again into a new folder"
        )
    return manifest


def require_files(root: Path, manifest: dict[str, Any]) -> None:
    """Check names and sizes of all files, so that an incomplete copy fails at once and not hours into a run.

    Raises:
        UserError: a file that the manifest lists is missing or has another size.
    """
    hint = f"copy the corpus again, or drop the damaged commits with `wm corpus repair {root}`"
    try:
        expected: list[tuple[Path, int | None]] = [(root / COMMITS / name, None) for name in manifest["commits"]]
        for table in TABLES:
            expected += [(root / table / name, num_bytes) for name, _, num_bytes in manifest["files"][table]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / CORPUS_FILE} is damaged ({type(error).__name__}); {hint}") from error
    batches = [expected[at : at + STAT_BATCH] for at in range(0, len(expected), STAT_BATCH)]
    try:
        mismatches = [one for found in map_in_order(_size_mismatches, batches, READING_THREADS) for one in found]
    except OSError as error:
        raise UserError(f"{root} is incomplete ({error.filename} is missing); {hint}") from error
    for path, found, size in mismatches:
        raise UserError(f"{path} has {found:,} bytes, expected {size:,}; {hint}")


def _size_mismatches(expected: list[tuple[Path, int | None]]) -> list[tuple[Path, int, int]]:
    """Files whose size differs from the expected one, with both sizes; None accepts any size."""
    found = [(path, path.stat().st_size, size) for path, size in expected]
    return [(path, actual, size) for path, actual, size in found if size is not None and actual != size]


def unlisted_files(root: Path, manifest: dict[str, Any]) -> list[Path]:
    """Files that the manifest does not list: left by killed runs, or by older revisions of a commit."""
    listed = {table: {name for name, *_ in manifest["files"][table]} for table in TABLES}
    found = [path for table in TABLES for path in (root / table).glob("*.parquet") if path.name not in listed[table]]
    commits = set(manifest["commits"])
    found += [path for path in (root / COMMITS).glob("[0-9]*.json") if path.name not in commits]
    return [*sorted(found), *root.glob(TEMPORARY_PATTERN), *(root / COMMITS).glob(TEMPORARY_PATTERN)]
