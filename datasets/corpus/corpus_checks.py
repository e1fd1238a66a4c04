"""Whether the commits of a corpus are sound, each by itself and all together."""

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
from datasets.corpus.commit_log import Commit, map_in_order, number_and_revision
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.manifest import TABLES, FileSummaries

MAX_THREADS = 16
"""Checksums and Parquet let other threads run; beyond this the storage is what is waited for."""


@dataclass(kw_only=True)
class CommitFindings:
    """What the commits add up to, and what is wrong with them. Memory: some 40 bytes an input, 1 KB a commit."""

    problems: list[Problem] = field(default_factory=list)
    files: dict[str, FileSummaries] = field(default_factory=dict)
    """Commit's file name -> its files; only commits that can be read."""
    num_games: int = 0
    num_frames: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    """Of all files read."""
    options: Counter[str] = field(default_factory=Counter)
    """The options of the commits, as JSON."""


def check_commits(root: Path, names: Sequence[str], on_bytes: Callable[[int], None]) -> CommitFindings:
    """Check commits, some at once, and compare them with one another in their order.

    Args:
        names: file names in commits/.
        on_bytes: called with the bytes read so far.
    Raises:
        UserError: a commit is of another format version, or may not be read by this user.
    """
    found = CommitFindings()
    together = _CrossChecks(found)
    num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    for checked in map_in_order(partial(check_commit, root), names, num_threads):
        found.problems += checked.problems
        found.num_bytes += checked.num_bytes
        if checked.commit is not None:
            try:
                found.problems += together.add(checked.name, checked.commit)
            except DAMAGE as error:
                message = f"it does not say what a commit says ({type(error).__name__})"
                found.problems.append(Problem(message, checked.name))
        on_bytes(found.num_bytes)
    found.problems += together.last_problems()
    return found


class _CrossChecks:
    """Holds commits against those before them."""

    def __init__(self, found: CommitFindings) -> None:
        self._found = found
        self._ledger = KnownGames()
        self._names: dict[int, str] = {}
        self._options_of: dict[str, str] = {}
        self._named: set[tuple[str, str]] = set()
        self._keys: list[np.ndarray] = []

    def add(self, name: str, commit: Commit) -> list[Problem]:
        """Take a commit in; what of it, or of earlier ones because of it, is wrong."""
        number, _ = number_and_revision(name)
        files = {table: (facts["name"], facts["rows"], facts["bytes"]) for table, facts in commit["files"].items()}
        keys = np.array([int(key[:16], 16) for key in commit["inputs"]], dtype=np.uint64)
        if not files.keys() <= set(TABLES):
            raise ValueError("files of no table")
        problems = [*self._unreplaced(number, commit), *self._repeated(number, name, commit)]
        for table, (file, *_) in files.items():
            if (table, file) in self._named:
                problems.append(Problem(f"{table}/{file} is another commit's file", name))
            self._named.add((table, file))
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
            for entry in self._ledger.of_id(game_id):
                self._ledger.drop(entry, "replaced")
                message = f"game {game_id} is still there, though commit {number} has its .slp"
                yield Problem(message, self._names[entry.commit], game_id)

    def _repeated(self, number: int, name: str, commit: Commit) -> Iterator[Problem]:
        parsed = set(commit["parsed"])
        for game_id, fingerprint, num_frames in commit["games"]:
            if twins := self._ledger.twins(game_id, fingerprint):
                yield Problem(f"game {game_id} is in commit {twins[0].commit} already", name, game_id)
            else:
                self._ledger.add([KnownGame(game_id, fingerprint, num_frames, game_id in parsed, number)])

    def last_problems(self) -> Iterator[Problem]:
        """What can be said when all commits are known."""
        if self._found.options:
            (usual, _), *_ = self._found.options.most_common(1)
            for name, options in self._options_of.items():
                if options != usual:
                    yield Problem("it was made with other options than the other commits", name)
        yield from self._inputs_twice()
        self._ledger.close()

    def _inputs_twice(self) -> Iterator[Problem]:
        """Inputs by the first eight bytes of their keys: what `wm encode` tells them apart by."""
        if not self._keys:
            return
        keys = np.concatenate(self._keys)
        numbers = np.repeat(np.array(list(self._names)), [len(keys) for keys in self._keys])
        order = np.argsort(keys, kind="stable")
        later = order[1:][keys[order[1:]] == keys[order[:-1]]]
        for number, count in Counter(numbers[later].tolist()).items():
            yield Problem(f"{count} of its inputs are accounted for by an earlier commit", self._names[number])
