"""`wm corpus verify`: checks every byte of a corpus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets.corpus.data_files import unlisted_files
from datasets.corpus.maintenance.file_checks import Findings, Problem, check_files, count_problems
from datasets.corpus.maintenance.stored_corpus import StoredCorpus, read_stored
from datasets.corpus.state import CORPUS_FILE, IN_PROGRESS_FILE
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.schema.columns import FORMAT_VERSION
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
        lines += first_lines([f"{problem.path}: {problem.message}" for problem in self.problems])
        lines += [f"note: {note}" for note in self.notes]
        if not self.is_sound:
            lines.append(f"`wm corpus repair {self.location}` drops what is damaged and keeps the rest")
        return "\n".join(lines)


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
    stored = read_stored(folder)
    found, problems = check_corpus(folder, stored, on_progress)
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


def check_corpus(folder: Folder, stored: StoredCorpus, on_progress: OnProgress) -> tuple[Findings, list[Problem]]:
    """What the files contain, and all that is wrong: in `corpus.json`, the commits, the files, or between them."""
    total = sum(record.num_bytes for record in stored.state.paths().values())
    found = check_files(folder, stored.state, lambda done: on_progress(done, total))
    problems = [*stored.problems, *found.problems]
    if not problems:
        problems += count_problems(stored.state, found.games, found.rejects, CORPUS_FILE)
        problems += _key_problems(stored, found)
    return found, problems


def first_lines(lines: list[str]) -> list[str]:
    """At most MAX_LINES lines."""
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES:,} more"]


def _key_problems(stored: StoredCorpus, found: Findings) -> list[Problem]:
    """Inputs that are not exactly one game or reject."""
    if stored.state.format_version != FORMAT_VERSION:
        return []
    in_tables = Counter(found.games["key"].to_pylist() + found.rejects["key"].to_pylist())
    in_commits = +stored.keys
    if in_tables == in_commits:
        return []
    num = (in_tables - in_commits).total() + (in_commits - in_tables).total()
    return [Problem(f"{num} inputs of the commits are not exactly one game or reject", "commits")]
