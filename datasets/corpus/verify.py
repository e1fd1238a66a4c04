"""`wm corpus verify`, `repair` and `compact`: check every byte of a corpus, drop what is damaged, merge small files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from datasets.corpus.commit import Committer
from datasets.corpus.commit_log import list_commits, read_commit, write_full_commit
from datasets.corpus.compact import COMPACT
from datasets.corpus.data_files import store_rows, unlisted_files
from datasets.corpus.dedupe import ORIGIN, SLP
from datasets.corpus.file_checks import Findings, Problem, check_files, count_problems
from datasets.corpus.reader import old_checksums
from datasets.corpus.state import (
    CORPUS_FILE,
    GAMES,
    IN_PROGRESS_FILE,
    LOCK_FILE,
    REJECTS,
    CorpusState,
    DamagedError,
    dump_json,
    load_json,
    parse_state,
)
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.schema.columns import FORMAT_VERSION, GAMES_SCHEMA, REJECTS_SCHEMA
from datasets.schema.reject_reasons import REJECT_REASONS

MAX_LINES = 50
"""Lines of a list that a report prints."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes checked so far and the bytes of all data files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """The result of `verify`."""

    location: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """Observations that are not defects."""
    num_commits: int
    num_games: int
    num_frames: int
    num_bytes: int
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether there are no defects."""
        return not self.problems

    @property
    def text(self) -> str:
        """The report as text."""
        verdict = "sound" if self.is_sound else f"not sound, {len(self.problems)} problems"
        speed = self.num_bytes / 1e6 / max(1e-9, self.seconds)
        lines = [
            f"{self.location} is {verdict}: {self.num_games:,} games and {self.num_frames:,} frames in "
            f"{self.num_commits:,} commits; {self.num_bytes / 1e6:,.1f} MB checked in {self.seconds:.1f} s "
            f"({speed:,.0f} MB/s)"
        ]
        lines += _listed([f"{problem.path}: {problem.message}" for problem in self.problems])
        lines += [f"note: {note}" for note in self.notes]
        if not self.is_sound:
            lines.append(f"`wm corpus repair {self.location}` drops what is damaged and keeps the rest")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairReport:
    """The result of `repair`."""

    location: str
    problems: tuple[Problem, ...]
    """What was damaged."""
    num_games_dropped: int
    num_rejects_dropped: int
    num_files_removed: int
    num_games: int
    """In the repaired corpus."""
    num_frames: int

    @property
    def is_sound(self) -> bool:
        """Always: what was damaged has been dropped."""
        return True

    @property
    def text(self) -> str:
        """The report as text."""
        lines = [f"{self.location} has {self.num_games:,} games and {self.num_frames:,} frames, all sound"]
        lines += _listed([f"{problem.path}: {problem.message}" for problem in self.problems])
        if self.problems:
            lines.append(f"dropped {self.num_games_dropped:,} games and {self.num_rejects_dropped:,} rejects")
        if self.num_files_removed:
            lines.append(f"removed {self.num_files_removed} files that no commit lists")
        if self.problems:
            lines.append("`wm encode` with the same sources and options encodes the dropped inputs again")
        if len(lines) == 1:
            lines.append("there was nothing to repair")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactReport:
    """The result of `compact`."""

    location: str
    num_files_before: int
    num_files: int

    @property
    def is_sound(self) -> bool:
        """Always."""
        return True

    @property
    def text(self) -> str:
        """The report as text."""
        return f"{self.location}: {self.num_files_before:,} data files merged into {self.num_files:,}"


def verify(location: str | Path, on_progress: OnProgress = lambda done, total: None) -> VerifyReport:
    """Check every byte of a corpus against its commits, and its tables against one another.

    Files exist with the recorded bytes, checksums, rows and columns; the games table agrees with the frames (each
    game's rows are its own, frame ids from the countdown without a gap); no game occurs twice; split numbers are those
    of the split keys, so that no match is in two splits; the commits are complete, and `corpus.json` is what they add
    up to; each input became one game or one reject.

    Raises:
        UserError: it is not a corpus, or has another format version.
    """
    started = time.monotonic()
    folder = open_folder(location)
    stored = _read_corpus(folder)
    found = check_files(folder, stored.state, _progress(stored.state, on_progress))
    problems = [*stored.problems, *found.problems]
    if not problems:
        problems += count_problems(stored.state, found.games, found.rejects, CORPUS_FILE)
        problems += _key_problems(stored, found)
    notes: list[str] = []
    if unknown := set(found.rejects["code"].to_pylist()) - REJECT_REASONS.keys():
        notes.append(f"rejects with codes that this version does not know: {', '.join(sorted(unknown))}")
    if folder.exists(IN_PROGRESS_FILE):
        notes.append("an encode is running or was interrupted; run the same `wm encode` to finish it")
    elif stored.state.format_version == FORMAT_VERSION and (extra := unlisted_files(folder, stored.state)):
        notes.append(f"{len(extra)} files that no commit lists, such as {extra[0]}")
    return VerifyReport(
        location=folder.location,
        problems=tuple(problems),
        notes=tuple(notes),
        num_commits=stored.state.num_commits,
        num_games=stored.state.num_games,
        num_frames=stored.state.num_frames,
        num_bytes=found.num_bytes,
        seconds=time.monotonic() - started,
    )


def repair(location: str | Path, on_progress: OnProgress = lambda done, total: None) -> RepairReport:
    """Drop what is damaged, so that `verify` finds no defects; `wm encode` then encodes those inputs again.

    All games and rejects in intact files are kept, in one new commit that supersedes all earlier ones.

    Raises:
        UserError: it is not a corpus, has another format version, or an encode is writing it.
    """
    folder = open_folder(location)
    held = f"an encode is writing {folder.location}; repair it after that has ended"
    stored = _read_corpus(folder)
    _require_writable(stored, folder)
    if not stored.state.options:
        raise UserError(f"{folder.location} holds no readable commit; encode the replays into a new folder")
    if folder.is_locked(LOCK_FILE):
        raise UserError(held)
    found = check_files(folder, stored.state, _progress(stored.state, on_progress))
    problems = [*stored.problems, *found.problems]
    if not problems:
        problems += [
            *count_problems(stored.state, found.games, found.rejects, CORPUS_FILE),
            *_key_problems(stored, found),
        ]
    before = {info.path for info in folder.list()}
    marker = {"format_version": FORMAT_VERSION, "options": stored.state.options}
    folder.replace(IN_PROGRESS_FILE, dump_json(marker))
    if any(problem.path == CORPUS_FILE for problem in problems):
        folder.delete([CORPUS_FILE])
    if problems:
        _write_intact(folder, stored, found)
    with Committer(location, stored.state.options) as committer:
        committer.finish()
    after = {info.path for info in folder.list()}
    return RepairReport(
        location=folder.location,
        problems=tuple(problems),
        num_games_dropped=max(0, stored.state.num_games - committer.state.num_games),
        num_rejects_dropped=max(0, stored.state.rejects.total() - committer.state.rejects.total()),
        num_files_removed=len(before - after - {IN_PROGRESS_FILE}),
        num_games=committer.state.num_games,
        num_frames=committer.state.num_frames,
    )


def compact(location: str | Path) -> CompactReport:
    """Merge small files of a finished corpus into files of about 96 MB, and drop the rows of removed games.

    Training runs that have the corpus open will miss the old files.

    Raises:
        UserError: it is not a corpus, has another format version, or is being written.
    """
    folder = open_folder(location)
    stored = _read_corpus(folder)
    if stored.problems:
        raise UserError(str(stored.problems[0].message))
    _require_writable(stored, folder)
    num_before = len(stored.state.paths())
    with Committer(location, stored.state.options) as committer:
        committer.merge(COMPACT, all_files=True)
        committer.finish(COMPACT)
    return CompactReport(location=folder.location, num_files_before=num_before, num_files=len(committer.state.paths()))


@dataclass(kw_only=True)
class _Stored:
    """What `corpus.json` and the commits say."""

    state: CorpusState
    problems: list[Problem] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    """Input -> number of times that a commit has it, without those whose reject was removed."""


def _read_corpus(folder: Folder) -> _Stored:
    """Fold the commits; `corpus.json` stands in for commits that cannot be read."""
    manifest: CorpusState | None = None
    problems: list[Problem] = []
    is_in_progress = folder.exists(IN_PROGRESS_FILE)
    try:
        manifest = parse_state(folder, folder.read(CORPUS_FILE))
    except FileNotFoundError:
        if not is_in_progress:
            problems.append(Problem("it is missing", CORPUS_FILE))
    except DamagedError as error:
        problems.append(Problem(str(error), CORPUS_FILE))
    if manifest is not None and manifest.format_version != FORMAT_VERSION:
        checksums = old_checksums(folder)
        for table, records in manifest.files.items():
            manifest.files[table] = [
                record._replace(blake2b=checksums.get(f"{table}/{record.name}")) for record in records
            ]
        return _Stored(state=manifest)
    paths, _ = list_commits(folder)
    if manifest is None and not paths and not is_in_progress:
        raise UserError(
            f"{folder.location} holds no {CORPUS_FILE} and no commits; expected a corpus made by `wm encode`"
        )
    state, keys = CorpusState(), Counter[str]()
    for path in paths:
        try:
            commit = read_commit(folder, path)
            state.apply(commit)
            keys = Counter(commit["inputs"]) if commit["replaces_all"] else keys + Counter(commit["inputs"])
            keys.subtract(Counter(key for key, *_ in commit["removed_rejects"]))
        except DamagedError as error:
            problems.append(Problem(str(error), path))
    is_complete = not any(problem.path != CORPUS_FILE for problem in problems)
    if manifest is not None and (len(paths) == 0 or not is_complete):
        if not paths:
            problems.append(Problem("the commits are missing", "commits"))
        return _Stored(state=manifest, problems=problems, keys=keys)
    if manifest is not None and not is_in_progress and _content(manifest, folder) != _content(state, folder):
        problems.append(Problem("it does not match the commits", CORPUS_FILE))
    if not state.options and is_in_progress:
        stored: dict[str, Any] = load_json(folder, IN_PROGRESS_FILE, folder.read(IN_PROGRESS_FILE), (FORMAT_VERSION,))
        state.options = stored["options"]
    return _Stored(state=state, problems=problems, keys=keys)


def _content(state: CorpusState, folder: Folder) -> dict[str, Any]:
    """The state as stored, without the version of the program and the number of commits, which a repair changes."""
    content = load_json(folder, CORPUS_FILE, state.to_json(), (state.format_version,))
    return {name: value for name, value in content.items() if name not in ("tool_version", "num_commits")}


def _require_writable(stored: _Stored, folder: Folder) -> None:
    if (version := stored.state.format_version) != FORMAT_VERSION:
        raise UserError(
            f"{folder.location} has corpus format {version}, which is read but not written any more; encode the "
            "replays into a new folder"
        )


def _progress(state: CorpusState, on_progress: OnProgress) -> Callable[[int], None]:
    total = sum(record.num_bytes for record in state.paths().values())
    return lambda done: on_progress(done, total)


def _key_problems(stored: _Stored, found: Findings) -> list[Problem]:
    """Inputs that are not exactly one game or reject."""
    if stored.state.format_version != FORMAT_VERSION:
        return []
    in_tables = Counter(found.games["key"].to_pylist() + found.rejects["key"].to_pylist())
    in_commits = +stored.keys
    if in_tables == in_commits:
        return []
    num = (in_tables - in_commits).total() + (in_commits - in_tables).total()
    return [Problem(f"{num} inputs of the commits are not exactly one game or reject", "commits")]


def _write_intact(folder: Folder, stored: _Stored, found: Findings) -> None:
    """Commit everything that is intact, superseding all earlier commits."""
    damaged = found.damaged_files
    keep = [
        f"frames/{shard}" not in damaged and f"followers/{shard}" not in damaged and game_id not in found.damaged_games
        for game_id, shard in zip(found.games["game_id"].to_pylist(), found.games["shard"].to_pylist(), strict=True)
    ]
    games = _first_of_each_key(found.games.filter(pa.array(keep, pa.bool_())))
    keys = set(games["key"].to_pylist())
    rejects = _first_of_each_key(
        found.rejects.filter(pa.array([key not in keys for key in found.rejects["key"].to_pylist()], pa.bool_()))
    )
    live = {f"frames/{shard}" for shard in games["shard"].to_pylist()}
    files = {
        table: [
            record for record in records if f"frames/{record.name}" in live and f"{table}/{record.name}" not in damaged
        ]
        for table, records in stored.state.files.items()
        if table not in (GAMES, REJECTS)
    }
    files[GAMES] = [store_rows(folder, GAMES, games, GAMES_SCHEMA)] if games.num_rows else []
    files[REJECTS] = [store_rows(folder, REJECTS, rejects, REJECTS_SCHEMA)] if rejects.num_rows else []
    rows = games.to_pylist()
    fields = {
        "inputs": games["key"].to_pylist() + rejects["key"].to_pylist(),
        "games": [[row["game_id"], row["fingerprint"], row["num_frames"]] for row in rows],
        "parsed": {
            row["game_id"]: {name: row.get(name) for name in (*ORIGIN, "shard")} for row in rows if row["form"] != SLP
        },
        "files": files,
        "rejects": dict(Counter(rejects["code"].to_pylist())),
    }
    paths, superseded = list_commits(folder)
    write_full_commit(folder, stored.state.options, fields, [*paths, *superseded])


def _first_of_each_key(rows: pa.Table) -> pa.Table:
    """Without rows whose input has a row already."""
    seen: set[str] = set()
    keep = [not (key in seen or seen.add(key)) for key in rows["key"].to_pylist()]
    return rows.filter(pa.array(keep, pa.bool_()))


def _listed(lines: list[str]) -> list[str]:
    """At most MAX_LINES lines."""
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES:,} more"]
