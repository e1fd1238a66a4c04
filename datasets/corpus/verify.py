"""`wm corpus verify` and `wm corpus repair`: prove a corpus sound, and drop what is not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.corpus.commit import Committer
from datasets.corpus.commit_checks import DAMAGE, Problem
from datasets.corpus.commit_log import COMMITS, OtherFormatError, commit_stem, list_commits, number_and_revision
from datasets.corpus.corpus_checks import CommitFindings, check_commits
from datasets.corpus.manifest import (
    CORPUS_FILE,
    GAMES,
    IN_PROGRESS_FILE,
    LOCK_FILE,
    TABLES,
    build_manifest,
    read_manifest,
    unlisted_files,
)
from datasets.corpus.revision import MESSAGES
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError
from datasets.runtime.file_lock import exclusive_lock
from datasets.schema.columns import FORMAT_VERSION
from datasets.schema.reject_reasons import REJECT_REASONS

MAX_LINES = 50
"""Problems that a report names."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes checked so far and those of all data files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify` found."""

    root: Path
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What is not wrong but worth knowing."""
    num_commits: int
    num_games: int
    num_frames: int
    num_bytes: int
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def text(self) -> str:
        """For a person."""
        verdict = "sound" if self.is_sound else f"not sound, {len(self.problems)} problems"
        speed = self.num_bytes / 1e6 / max(1e-9, self.seconds)
        lines = [
            f"{self.root} is {verdict}: {self.num_games:,} games and {self.num_frames:,} frames in "
            f"{self.num_commits:,} commits; {self.num_bytes / 1e6:,.1f} MB checked in {self.seconds:.1f} s "
            f"({speed:,.0f} MB/s)"
        ]
        lines += _listed([f"{problem.commit or CORPUS_FILE}: {problem.message}" for problem in self.problems])
        lines += [f"note: {note}" for note in self.notes]
        if not self.is_sound:
            lines.append(f"`wm corpus repair {self.root}` drops what is not sound")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairReport:
    """What `repair` did."""

    root: Path
    dropped: dict[str, list[str]]
    """Commits that were dropped -> why."""
    num_games_dropped: int
    """With them, where they could be read."""
    num_games_revised: int
    """That left their commits because the corpus has them elsewhere."""
    others: tuple[str, ...]
    """What was wrong with corpus.json, which was made again."""
    num_files_removed: int
    num_games: int
    """That the corpus has now."""
    num_frames: int

    @property
    def is_sound(self) -> bool:
        """What was not sound is gone, so what is left is."""
        return True

    @property
    def text(self) -> str:
        """For a person."""
        lines = [f"{self.root} has {self.num_games:,} games and {self.num_frames:,} frames, all sound"]
        if self.dropped:
            lines.append(f"dropped {len(self.dropped)} commits with {self.num_games_dropped:,} games:")
            lines += _listed([f"  {name}: {messages[0]}" for name, messages in self.dropped.items()])
        if self.num_games_revised:
            lines.append(f"dropped {self.num_games_revised:,} games that the corpus has elsewhere")
        lines += [f"{CORPUS_FILE} was made again: {message}" for message in self.others]
        if self.num_files_removed:
            lines.append(f"removed {self.num_files_removed} files that no commit names")
        if self.dropped:
            lines.append("`wm encode` with the same sources and options brings back what was dropped")
        if len(lines) == 1:
            lines.append("nothing was to be repaired")
        return "\n".join(lines)


def verify(root: Path, on_progress: OnProgress = lambda done, total: None) -> VerifyReport:
    """Check every byte of a corpus against what its commits say, and them against one another.

    Of each commit: its files are there with their bytes, checksums, rows and columns; the games table agrees with the
    frames (each game's rows are its own, ids from the countdown without a gap) and with the commit; split numbers are
    those of the keys, so no match is in two splits; each input became a game or a reject with a reason. Of all: no
    game and no input is there twice, the options are the same, and `corpus.json` says what the commits add up to.

    Raises:
        UserError: it is no corpus, or one of another format version.
    """
    started = time.monotonic()
    root = root.resolve()
    manifest, problems = _manifest(root)
    on_disk, _ = list_commits(root)
    if manifest is None and not on_disk and not (root / IN_PROGRESS_FILE).exists():
        raise UserError(f"{root} holds no {CORPUS_FILE} and no commits; expected a corpus made by `wm encode`")
    listed = on_disk if manifest is None else manifest["commits"]
    found = _check(root, listed, on_progress)
    problems += found.problems
    notes: list[str] = []
    if unknown := found.rejects.keys() - REJECT_REASONS.keys() - MESSAGES.keys():
        notes.append(f"rejects of codes that this version does not know: {', '.join(sorted(unknown))}")
    if (root / IN_PROGRESS_FILE).exists():
        notes.append("an encode is under way or was interrupted; run the same `wm encode` to finish it")
    elif manifest is not None:
        if unlisted := set(on_disk) - set(listed):
            problems.append(Problem(f"it does not list {len(unlisted)} commits that are there"))
        elif extra := unlisted_files(root, manifest):
            notes.append(f"{len(extra)} files that no commit names, such as {extra[0].relative_to(root)}")
    if manifest is not None and not problems:
        problems += _manifest_problems(manifest, found)
    return VerifyReport(
        root=root,
        problems=tuple(problems),
        notes=tuple(notes),
        num_commits=len(found.files),
        num_games=found.num_games,
        num_frames=found.num_frames,
        num_bytes=found.num_bytes,
        seconds=time.monotonic() - started,
    )


def repair(root: Path, on_progress: OnProgress = lambda done, total: None) -> RepairReport:
    """DroppedGame what is not sound, so that `verify` finds nothing; `wm encode` then encodes it again.

    A commit of which anything is damaged goes as a whole, since its inputs must be encoded again. A game that the
    corpus has elsewhere leaves its commit. `corpus.json` is made again from the commits.

    Raises:
        UserError: it is no corpus, one of another format version, or an encode is writing it.
    """
    root = root.resolve()
    manifest, others = _manifest(root)
    names, _ = list_commits(root)
    if manifest is None and not names:
        raise UserError(f"{root} holds no commits to make a corpus of; encode the replays into a new folder")
    with exclusive_lock(root / LOCK_FILE, f"an encode is writing {root}; repair it when that has ended"):
        before = _files(root)
        found = _check(root, names, on_progress)
        if manifest is not None:
            others += _manifest_problems(manifest, found)
        options = _options(root, manifest, found)
        write_json_atomically(root / IN_PROGRESS_FILE, {"format_version": FORMAT_VERSION, "options": options})
        if manifest is None or manifest["options"] != options:
            (root / CORPUS_FILE).unlink(missing_ok=True)
        dropped = _drop_commits(root, found.problems)
        committer = Committer(root, options)
        num_games_revised = committer.num_dropped
        committer.finish()
    return RepairReport(
        root=root,
        dropped=dropped,
        num_games_dropped=sum(found.files[name][GAMES][1] for name in dropped if GAMES in found.files.get(name, {})),
        num_games_revised=num_games_revised,
        others=tuple(problem.message for problem in others),
        num_files_removed=len(before - _files(root)),
        num_games=committer.num_games,
        num_frames=committer.num_frames,
    )


def _check(root: Path, names: Sequence[str], on_progress: OnProgress) -> CommitFindings:
    total = sum(path.stat().st_size for path in _data_files(root))
    return check_commits(root, names, lambda done: on_progress(done, total))


def _data_files(root: Path) -> Iterator[Path]:
    return (path for table in TABLES for path in (root / table).glob("*.parquet"))


def _files(root: Path) -> set[Path]:
    return {*_data_files(root), *(root / COMMITS).iterdir()}


def _options(root: Path, manifest: dict[str, Any] | None, found: CommitFindings) -> dict[str, Any]:
    """What most commits were made with; where there are none, what the corpus was to be made with."""
    if found.options:
        return json.loads(found.options.most_common(1)[0][0])
    if manifest is not None:
        return manifest["options"]
    raise UserError(f"{root} holds no commit that can be read; encode the replays into a new folder")


def _manifest(root: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """`corpus.json`, or None and what is wrong with it."""
    try:
        manifest = read_manifest(root / CORPUS_FILE)
        pairs = [number_and_revision(name) for name in manifest["commits"]]
        [(name, rows, num_bytes) for table in TABLES for name, rows, num_bytes in manifest["files"][table]]
        if [number for number, _ in pairs] != sorted({number for number, _ in pairs}) or "options" not in manifest:
            raise ValueError("commits out of order")
    except OtherFormatError:
        raise
    except FileNotFoundError:
        return None, [Problem("it is missing")]
    except (UserError, *DAMAGE) as error:
        return None, [Problem(f"it is damaged ({str(error).splitlines()[0]})")]
    return manifest, []


def _manifest_problems(manifest: dict[str, Any], found: CommitFindings) -> Iterator[Problem]:
    """Where `corpus.json` says something else than the commits add up to."""
    counts = {"num_games": found.num_games, "num_frames": found.num_frames, "rejects": dict(found.rejects)}
    options = json.loads(found.options.most_common(1)[0][0]) if found.options else manifest["options"]
    expected = json.loads(json.dumps(build_manifest(options, counts, found.files.items())))
    for name, value in expected.items():
        if manifest.get(name) != value:
            said = "other" if isinstance(value, list | dict) else f"{manifest.get(name)}, expected {value}:"
            yield Problem(f"{name}: {said} than its commits add up to")


def _drop_commits(root: Path, problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Remove commits that are not sound, all their revisions, the newest last; returns them with the reasons."""
    dropped: dict[str, list[str]] = {}
    for problem in problems:
        if problem.commit is not None and problem.game_id is None:
            dropped.setdefault(problem.commit, []).append(problem.message)
    for name in dropped:
        number, revision = number_and_revision(name)
        for older in range(revision):
            (root / COMMITS / f"{commit_stem(number, older)}.json").unlink(missing_ok=True)
        (root / COMMITS / name).unlink()
    return dropped


def _listed(lines: list[str]) -> list[str]:
    """Not more lines than a person reads."""
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES:,} more"]
