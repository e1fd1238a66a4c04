"""Checks of all commits of a corpus: each on its own, then against one another."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datasets.corpus.commit_checks import DAMAGE, Problem, check_commit
from datasets.corpus.commit_files import file_summaries
from datasets.corpus.commit_log import Commit, map_in_order, number_and_revision
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.manifest import TABLES, FileSummaries

MAX_THREADS = 16
"""Checksums and Parquet release the GIL; beyond this many threads storage is the bottleneck."""


@dataclass(kw_only=True)
class CommitFindings:
    """Totals over the commits, and their defects. Takes about 40 bytes per input and 1 KB per commit."""

    problems: list[Problem] = field(default_factory=list)
    files: dict[str, FileSummaries] = field(default_factory=dict)
    """File name of a commit -> its files; readable commits only."""
    num_games: int = 0
    num_frames: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    """Bytes of all files read."""
    options: Counter[str] = field(default_factory=Counter)
    """Options as JSON -> number of commits with them."""


def check_commits(root: Path, names: Sequence[str], on_bytes: Callable[[int], None]) -> CommitFindings:
    """Check commits concurrently, and compare them with one another in their order.

    Args:
        names: file names in commits/.
        on_bytes: called with the bytes read so far.
    Raises:
        UserError: a commit has another format version, or this user may not read it.
    """
    found = CommitFindings()
    cross_checks = _CrossChecks(found)
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    for checked in map_in_order(partial(check_commit, root), names, num_threads):
        found.problems += checked.problems
        found.num_bytes += checked.num_bytes
        if checked.commit is not None:
            try:
                found.problems += cross_checks.add(checked.name, checked.commit)
            except DAMAGE as error:
                message = f"it is not a valid commit ({type(error).__name__})"
                found.problems.append(Problem(message, checked.name))
        on_bytes(found.num_bytes)
    found.problems += cross_checks.finish()
    return found


class _CrossChecks:
    """Compares each commit with those before it."""

    def __init__(self, found: CommitFindings) -> None:
        self._found = found
        self._known = KnownGames()
        self._names: dict[int, str] = {}
        self._options_of: dict[str, str] = {}
        self._listed: set[tuple[str, str]] = set()
        self._keys: list[np.ndarray] = []

    def add(self, name: str, commit: Commit) -> list[Problem]:
        """Add a commit; returns its defects, and those that it reveals in earlier commits."""
        number, _ = number_and_revision(name)
        files = file_summaries(commit["files"])
        keys = np.array([int(key[:16], 16) for key in commit["inputs"]], dtype=np.uint64)
        if not files.keys() <= set(TABLES):
            raise ValueError("a file in an unknown table")
        problems = [*self._unreplaced(number, commit), *self._duplicates(number, name, commit)]
        for table, (file, *_) in files.items():
            if (table, file) in self._listed:
                problems.append(Problem(f"{table}/{file} belongs to another commit", name))
            self._listed.add((table, file))
        self._names[number] = name
        self._keys.append(keys)
        self._options_of[name] = json.dumps(commit["options"], sort_keys=True)
        found = self._found
        found.files[name] = files
        found.num_games += len(commit["games"])
        found.num_frames += sum(num_frames for *_, num_frames in commit["games"])
        found.rejects.update(commit["rejects"])
        found.options[self._options_of[name]] += 1
        return problems

    def _unreplaced(self, number: int, commit: Commit) -> Iterator[Problem]:
        for game_id in commit["replaced"]:
            for game in self._known.with_id(game_id):
                self._known.drop(game, "replaced")
                message = f"game {game_id} is still present, but commit {number} replaces it with its .slp"
                yield Problem(message, self._names[game.commit], game_id)

    def _duplicates(self, number: int, name: str, commit: Commit) -> Iterator[Problem]:
        parsed = set(commit["parsed"])
        for game_id, fingerprint, num_frames in commit["games"]:
            if matches := self._known.matches(game_id, fingerprint):
                yield Problem(f"game {game_id} is already in commit {matches[0].commit}", name, game_id)
            else:
                self._known.add([KnownGame(game_id, fingerprint, num_frames, game_id in parsed, number)])

    def finish(self) -> Iterator[Problem]:
        """Defects that show only once all commits are known."""
        if self._found.options:
            (most_common, _), *_ = self._found.options.most_common(1)
            for name, options in self._options_of.items():
                if options != most_common:
                    yield Problem("its options differ from those of the other commits", name)
        yield from self._duplicate_inputs()
        self._known.close()

    def _duplicate_inputs(self) -> Iterator[Problem]:
        """Compares inputs by the first eight bytes of their keys, as `wm encode` does."""
        if not self._keys:
            return
        keys = np.concatenate(self._keys)
        numbers = np.repeat(np.array(list(self._names)), [len(keys) for keys in self._keys])
        order = np.argsort(keys, kind="stable")
        later = order[1:][keys[order[1:]] == keys[order[:-1]]]
        for number, count in Counter(numbers[later].tolist()).items():
            yield Problem(f"{count} of its inputs are already in an earlier commit", self._names[number])
