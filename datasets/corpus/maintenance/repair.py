"""`wm corpus repair`: drops what is damaged from a corpus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from datasets.corpus.commit import Committer
from datasets.corpus.commit_log import list_commits, write_full_commit
from datasets.corpus.data_files import store_rows
from datasets.corpus.dedupe import ORIGIN, SLP
from datasets.corpus.maintenance.file_checks import Findings, Problem
from datasets.corpus.maintenance.stored_corpus import StoredCorpus, read_stored, require_writable
from datasets.corpus.maintenance.verify import OnProgress, check_corpus, first_lines
from datasets.corpus.state import CORPUS_FILE, GAMES, IN_PROGRESS_FILE, LOCK_FILE, REJECTS, dump_json
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.schema.columns import FORMAT_VERSION, GAMES_SCHEMA, REJECTS_SCHEMA


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
    def text(self) -> str:
        """The report as text."""
        lines = [f"{self.location} has {self.num_games:,} games and {self.num_frames:,} frames, all sound"]
        lines += first_lines([f"{problem.path}: {problem.message}" for problem in self.problems])
        if self.problems:
            lines.append(f"dropped {self.num_games_dropped:,} games and {self.num_rejects_dropped:,} rejects")
        if self.num_files_removed:
            lines.append(f"removed {self.num_files_removed} files that no commit lists")
        if self.problems:
            lines.append("`wm encode` with the same sources and options encodes the dropped inputs again")
        if len(lines) == 1:
            lines.append("there was nothing to repair")
        return "\n".join(lines)


def repair(location: str | Path, on_progress: OnProgress = lambda done, total: None) -> RepairReport:
    """Drop what is damaged, so that `verify` finds no defects; `wm encode` then encodes those inputs again.

    All games and rejects in intact files are kept, in one new commit that supersedes all earlier ones.

    Raises:
        UserError: it is not a corpus, has another format version, or an encode is writing it.
    """
    folder = open_folder(location)
    held = f"an encode is writing {folder.location}; repair it after that has ended"
    stored = read_stored(folder)
    require_writable(stored, folder)
    if not stored.state.options:
        raise UserError(f"{folder.location} holds no readable commit; encode the replays into a new folder")
    if folder.is_locked(LOCK_FILE):
        raise UserError(held)
    found, problems = check_corpus(folder, stored, on_progress)
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


def _write_intact(folder: Folder, stored: StoredCorpus, found: Findings) -> None:
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
