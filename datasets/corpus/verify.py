"""`wm corpus verify` and `wm corpus repair`: check every byte of a corpus, and drop damaged commits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.corpus.commit import Committer
from datasets.corpus.commit_checks import DAMAGE, Problem
from datasets.corpus.commit_files import DROP_MESSAGES
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
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError
from datasets.runtime.file_lock import exclusive_lock
from datasets.schema.columns import FORMAT_VERSION
from datasets.schema.reject_reasons import REJECT_REASONS

MAX_LINES = 50
"""Lines of a list that a report prints."""

OnProgress = Callable[[int, int], None]
"""Called with the bytes checked so far and the bytes of all data files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """The result of `verify`."""

    root: Path
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
            f"{self.root} is {verdict}: {self.num_games:,} games and {self.num_frames:,} frames in "
            f"{self.num_commits:,} commits; {self.num_bytes / 1e6:,.1f} MB checked in {self.seconds:.1f} s "
            f"({speed:,.0f} MB/s)"
        ]
        lines += _listed([f"{problem.commit or CORPUS_FILE}: {problem.message}" for problem in self.problems])
        lines += [f"note: {note}" for note in self.notes]
        if not self.is_sound:
            lines.append(f"`wm corpus repair {self.root}` drops the damaged commits")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairReport:
    """The result of `repair`."""

    root: Path
    dropped: dict[str, list[str]]
    """File name of a dropped commit -> its defects."""
    num_games_dropped: int
    """Games in the dropped commits, as far as those could be read."""
    num_games_revised: int
    """Games removed from their commits because the corpus has them elsewhere."""
    manifest_problems: tuple[str, ...]
    """Defects of corpus.json, which was rebuilt."""
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
        lines = [f"{self.root} has {self.num_games:,} games and {self.num_frames:,} frames, all sound"]
        if self.dropped:
            lines.append(f"dropped {len(self.dropped)} commits with {self.num_games_dropped:,} games:")
            lines += _listed([f"  {name}: {messages[0]}" for name, messages in self.dropped.items()])
        if self.num_games_revised:
            lines.append(f"dropped {self.num_games_revised:,} games that the corpus has elsewhere")
        lines += [f"{CORPUS_FILE} was rebuilt: {message}" for message in self.manifest_problems]
        if self.num_files_removed:
            lines.append(f"removed {self.num_files_removed} files that no commit lists")
        if self.dropped:
            lines.append("`wm encode` with the same sources and options encodes the dropped inputs again")
        if len(lines) == 1:
            lines.append("there was nothing to repair")
        return "\n".join(lines)


def verify(root: Path, on_progress: OnProgress = lambda done, total: None) -> VerifyReport:
    """Check every byte of a corpus against its commits, and the commits against one another.

    Each commit: its files exist with the recorded bytes, checksums, rows and columns; the games table agrees with the
    frames (each game's rows are its own, frame ids from the countdown without a gap) and with the commit; split numbers
    are those of the split keys, so that no match is in two splits; each input became a game or a reject with a reason.
    All commits: no game and no input occurs twice, the options are equal, and `corpus.json` matches their totals.

    Raises:
        UserError: it is not a corpus, or has another format version.
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
    if unknown := found.rejects.keys() - REJECT_REASONS.keys() - DROP_MESSAGES.keys():
        notes.append(f"rejects with codes that this version does not know: {', '.join(sorted(unknown))}")
    if (root / IN_PROGRESS_FILE).exists():
        notes.append("an encode is running or was interrupted; run the same `wm encode` to finish it")
    elif manifest is not None:
        if unlisted := set(on_disk) - set(listed):
            problems.append(Problem(f"it does not list {len(unlisted)} commits that exist"))
        elif extra := unlisted_files(root, manifest):
            notes.append(f"{len(extra)} files that no commit lists, such as {extra[0].relative_to(root)}")
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
    """Drop damaged commits, so that `verify` finds no defects; `wm encode` then encodes their inputs again.

    A damaged commit is dropped as a whole, since its inputs must be encoded again. A game that the corpus has
    elsewhere is removed from its commit. `corpus.json` is rebuilt from the commits.

    Raises:
        UserError: it is not a corpus, has another format version, or an encode is writing it.
    """
    root = root.resolve()
    manifest, manifest_problems = _manifest(root)
    names, _ = list_commits(root)
    if manifest is None and not names:
        raise UserError(f"{root} holds no commits to build a corpus from; encode the replays into a new folder")
    with exclusive_lock(root / LOCK_FILE, f"an encode is writing {root}; repair it after that has ended"):
        before = _files(root)
        found = _check(root, names, on_progress)
        if manifest is not None:
            manifest_problems += _manifest_problems(manifest, found)
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
        manifest_problems=tuple(problem.message for problem in manifest_problems),
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
    """The options of most commits, or those in the manifest if no commit can be read."""
    if found.options:
        return json.loads(found.options.most_common(1)[0][0])
    if manifest is not None:
        return manifest["options"]
    raise UserError(f"{root} holds no readable commit; encode the replays into a new folder")


def _manifest(root: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """`corpus.json`, or None and its defects."""
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
    """Fields of `corpus.json` that differ from the totals of the commits."""
    counts = {"num_games": found.num_games, "num_frames": found.num_frames, "rejects": dict(found.rejects)}
    options = json.loads(found.options.most_common(1)[0][0]) if found.options else manifest["options"]
    expected = json.loads(json.dumps(build_manifest(options, counts, found.files.items())))
    del expected["tool_version"]  # another version's corpus is sound too
    for name, value in expected.items():
        if manifest.get(name) != value:
            found_value = "it" if isinstance(value, list | dict) else f"{manifest.get(name)}, expected {value}; it"
            yield Problem(f"{name}: {found_value} does not match the commits")


def _drop_commits(root: Path, problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Remove all revisions of the damaged commits, the newest last; returns the commits with their defects."""
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
    """At most MAX_LINES lines."""
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES], f"... and {len(lines) - MAX_LINES:,} more"]
