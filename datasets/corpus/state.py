"""What a corpus consists of: its files, in order, and what was removed from them. Folded from commits, kept in
`corpus.json`.

Readers load `corpus.json` alone, one object. A commit that it does not include is not visible yet: an encode is
running, or was interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.runtime.version import tool_version

CORPUS_FILE = "corpus.json"
IN_PROGRESS_FILE = "encoding.json"
"""Exists while an encode runs and after one was interrupted; holds its options."""
LOCK_FILE = "encode.lock"
"""Locked by the process that writes."""
LOG_FILE = "encode.log"
"""Progress of each encode, one line every half minute."""
FRAMES, FOLLOWERS, GAMES, REJECTS = "frames", "followers", "games", "rejects"
TABLES = (FRAMES, FOLLOWERS, GAMES, REJECTS)
"""Folders of data files."""
STATE_VERSION = 3
"""The format version of a corpus whose commits fold into a `CorpusState`."""


class OtherFormatError(UserError):
    """A corpus with another format version."""


class DamagedError(UserError):
    """A file of a corpus that cannot be parsed, or whose checksum does not match."""


class FileRecord(NamedTuple):
    """A data file."""

    name: str
    """In the folder of its table."""
    rows: int
    num_bytes: int
    blake2b: str | None
    """128 bits, hexadecimal; None in `corpus.json` of format 2."""


@dataclass(kw_only=True)
class CorpusState:
    """A corpus after some of its commits."""

    format_version: int = STATE_VERSION
    options: dict[str, Any] = field(default_factory=dict)
    num_games: int = 0
    num_frames: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    """Reason code -> number of rejected inputs."""
    files: dict[str, list[FileRecord]] = field(default_factory=dict)
    """Table -> its files, in the order of the corpus."""
    removed_games: set[tuple[str, str]] = field(default_factory=set)
    """(game_id, shard) of rows of the games table that are no longer part of the corpus."""
    removed_rejects: set[tuple[str, str]] = field(default_factory=set)
    """(key, file) of rows of the rejects table that are no longer part of the corpus."""
    num_commits: int = 0
    """Number of the next commit."""

    def apply(self, commit: dict[str, Any]) -> None:
        """Add one commit (`datasets.corpus.commit_log.Commit`)."""
        if commit["replaces_all"]:
            self.num_games, self.num_frames, self.files, self.rejects = 0, 0, {}, Counter()
            self.removed_games, self.removed_rejects = set(), set()
        self.options = commit["options"]
        retired = {(table, name) for table, names in commit["retired"].items() for name in names}
        self.removed_games |= {(game_id, shard) for game_id, shard, _ in commit["removed_games"]}
        self.removed_rejects |= {(key, name) for key, name, _ in commit["removed_rejects"]}
        self.removed_games = {pair for pair in self.removed_games if (FRAMES, pair[1]) not in retired}
        self.removed_rejects = {pair for pair in self.removed_rejects if (REJECTS, pair[1]) not in retired}
        for table in self.files.keys() | commit["files"].keys():
            old = self.files.get(table, [])
            at = next((i for i, record in enumerate(old) if (table, record.name) in retired), len(old))
            new = [FileRecord(*record) for record in commit["files"].get(table, ())]
            kept = [record for record in old[at:] if (table, record.name) not in retired]
            self.files[table] = old[:at] + new + kept
        self.num_games += len(commit["games"]) - len(commit["removed_games"])
        self.num_frames += sum(game[2] for game in commit["games"])
        self.num_frames -= sum(num_frames for *_, num_frames in commit["removed_games"])
        self.rejects.update(commit["rejects"])
        self.rejects.subtract(Counter(code for *_, code in commit["removed_rejects"]))
        self.rejects = +self.rejects
        self.num_commits += 1

    def to_json(self) -> bytes:
        """Content of `corpus.json`."""
        content = {
            "format_version": self.format_version,
            "tool_version": tool_version(),
            "options": self.options,
            "num_games": self.num_games,
            "num_frames": self.num_frames,
            "rejects": dict(self.rejects),
            "num_commits": self.num_commits,
            "files": {table: self.files.get(table, []) for table in sorted({*TABLES, *self.files})},
            "removed_games": sorted(self.removed_games),
            "removed_rejects": sorted(self.removed_rejects),
        }
        return dump_json(content)

    def paths(self) -> dict[str, FileRecord]:
        """Path from the corpus's folder -> record, of every data file."""
        return {f"{table}/{record.name}": record for table, records in self.files.items() for record in records}

    def read_rows(self, table: str, schema: pa.Schema, read: Callable[[str], pa.Table]) -> pa.Table:
        """The rows of the games or rejects table that are part of the corpus, in order.

        Args:
            read: reads one Parquet file, given its path from the corpus's folder.
        """
        removed = {GAMES: self.removed_games, REJECTS: self.removed_rejects}[table]
        parts = [schema.empty_table()]
        for record in self.files.get(table, ()):
            rows = read(f"{table}/{record.name}")
            if removed:
                names = [record.name] * rows.num_rows if table == REJECTS else rows["shard"].to_pylist()
                pairs = zip(rows["key" if table == REJECTS else "game_id"].to_pylist(), names, strict=True)
                rows = rows.filter(pa.array([pair not in removed for pair in pairs], pa.bool_()))
            parts.append(rows)
        return pa.concat_tables(parts)


def load_state(folder: Folder) -> CorpusState:
    """Read `corpus.json`, of this format or of format 2.

    Raises:
        UserError: there is no corpus, or it is half-written, damaged (DamagedError) or of another format
            (OtherFormatError).
    """
    try:
        content = folder.read(CORPUS_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder.exists(IN_PROGRESS_FILE):
            raise UserError(
                f"{folder.location} is a half-written corpus; run the same `wm encode` again to finish it"
            ) from error
        raise UserError(f"{folder.location} holds no {CORPUS_FILE}; expected a corpus made by `wm encode`") from error
    return parse_state(folder, content)


def parse_state(folder: Folder, content: bytes) -> CorpusState:
    """The state in the content of `corpus.json`; raises as `load_state` does."""
    stored = load_json(folder, CORPUS_FILE, content, (2, STATE_VERSION))
    try:
        files = {
            table: [FileRecord(*record, *(None,) * (4 - len(record))) for record in records]
            for table, records in stored["files"].items()
        }
        is_old = stored["format_version"] == 2
        return CorpusState(
            format_version=stored["format_version"],
            options=stored["options"],
            num_games=stored["num_games"],
            num_frames=stored["num_frames"],
            rejects=Counter(stored["rejects"]),
            files=files,
            removed_games=set() if is_old else {(game_id, shard) for game_id, shard in stored["removed_games"]},
            removed_rejects=set() if is_old else {(key, name) for key, name in stored["removed_rejects"]},
            num_commits=len(stored["commits"]) if is_old else stored["num_commits"],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged_error(folder, CORPUS_FILE, type(error).__name__) from error


def dump_json(content: dict[str, Any]) -> bytes:
    """A file of JSON with a checksum over its other fields."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True)
    return f'{{"checksum":"{_checksum(text)}",{text[1:]}'.encode()


def load_json(folder: Folder, path: str, content: bytes, versions: tuple[int, ...]) -> dict[str, Any]:
    """Parse what `dump_json` wrote, or `corpus.json` of format 2, which has no checksum.

    Raises:
        DamagedError: it cannot be parsed, or the checksum does not match.
        OtherFormatError: its format version is none of `versions`.
    """
    try:
        stored = json.loads(content)
        version = stored["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged_error(folder, path, type(error).__name__) from error
    if version not in versions and isinstance(version, int):
        raise OtherFormatError(
            f"{folder.location} has corpus format {version}, this version reads {' and '.join(map(str, versions))}; "
            "encode the replays again into a new folder"
        )
    if version != 2:
        found = stored.pop("checksum", None)
        if found != _checksum(json.dumps(stored, separators=(",", ":"), sort_keys=True)):
            raise damaged_error(folder, path, "checksum mismatch")
    return stored


def damaged_error(folder: Folder, path: str, reason: str) -> DamagedError:
    """The error for a file of JSON that cannot be used."""
    location = folder.location
    return DamagedError(
        f"{location}/{path} is missing or damaged ({reason}); `wm corpus repair {location}` keeps what is intact, and "
        "`wm encode` then encodes the rest again"
    )


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
