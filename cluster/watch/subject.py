"""What a command works on: where its progress is read, and which machines it needs.

verb     progress
train    targets seen: the last row of the run's log
sweep    targets seen, summed over the trials
encode   games committed to the corpus
eval     none
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.card.run_card import RunCard
from datasets.corpus.commit_log import list_commits, read_commit
from datasets.corpus.state import CORPUS_FILE
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import open_folder
from tune.cli import without_retry
from tune.config import SweepConfig
from tune.results.sweep_folder import SWEEP_FILE
from tune.search.trials import TRIALS_FOLDER
from wm.config.run_config import RunConfig
from wm.config.run_paths import with_absolute_paths
from wm.config.shipped import config_file
from wm.config.typed_yaml import load_yaml
from wm.runs.run import RUN_FILE
from wm.runs.run_files import RunFiles, open_run_files
from wm.runs.run_log import LOG_FILE, parse_log

SIGNS = ("start", "train", "eval", "checkpoint", "rollback")
"""Kinds of rows that show that a run goes on; warnings do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a command has come."""

    targets: int | None = None
    signs_of_life: int = 0
    starts: int | None = None
    has_moved: bool = False
    total_targets: int | None = None
    evaluations: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """The resources without which a command waits."""

    kind: str
    """GPU or CPU."""
    amount: float

    def missing(self, available: float) -> str | None:
        """What is missing in words; None if there is enough."""
        return None if available >= self.amount else f"{available:g} of {self.amount:g} {self.kind}s"


class Subject(ABC):
    """What a command works on.

    Attributes:
        location: of the run, sweep or corpus, without credentials.
        files: of the run or sweep, where card.json and watch.jsonl are kept; None for other verbs.
        marker: a file in it from which on it may hold other files.
        need: None if the command can use whatever there is.
    """

    location: str = ""
    files: RunFiles | None = None
    marker: str = ""
    need: Need | None = None

    @abstractmethod
    def progress(self) -> Progress:
        """How far it is.

        Raises:
            OSError, UserError: that cannot be read at the moment.
        """


class RunSubject(Subject):
    """`wm train`."""

    marker = RUN_FILE

    def __init__(self, config: RunConfig) -> None:
        self._config = config = with_absolute_paths(config)
        self.files = open_run_files(config.out)
        self.location = self.files.location
        self.need = need_of_run(config)
        self._log = _Log(self.files, LOG_FILE)

    def progress(self) -> Progress:
        rows = self._log.rows()
        return Progress(
            targets=_targets(rows),
            signs_of_life=_signs(rows),
            starts=_starts(rows),
            has_moved=_has_moved(rows),
            total_targets=self._config.optimizer.total_targets,
            evaluations=tuple(row for row in rows if row["kind"] == "eval"),
        )


class SweepSubject(Subject):
    """`wm sweep`."""

    marker = SWEEP_FILE

    def __init__(self, config: SweepConfig) -> None:
        self.files = open_run_files(config.out)
        self.location = self.files.location
        if config.gpus_per_trial:
            self.need = Need(kind="GPU", amount=config.gpus_per_trial)
        self._logs: dict[str, _Log] = {}

    def progress(self) -> Progress:
        assert self.files is not None
        for trial in self.files.names(TRIALS_FOLDER):
            self._logs.setdefault(trial, _Log(self.files, f"{TRIALS_FOLDER}/{trial}/{LOG_FILE}"))
        logs = [log.rows() for log in self._logs.values()]
        return Progress(
            targets=sum(map(_targets, logs)), signs_of_life=sum(map(_signs, logs)), starts=sum(map(_starts, logs))
        )


class CorpusSubject(Subject):
    """`wm encode`."""

    def __init__(self, out: str) -> None:
        self._folder = open_folder(out)
        self.location = self._folder.location
        self._num_games: dict[str, int] = {}

    def progress(self) -> Progress:
        paths, _ = list_commits(self._folder)
        with contextlib.suppress(UserError):  # a commit that is listed and not there yet
            for path in paths:
                if path not in self._num_games:
                    self._num_games[path] = len(read_commit(self._folder, path)["games"])
        version = self._folder.info(CORPUS_FILE)
        signs = len(paths) + hash(None if version is None else version.version)
        return Progress(targets=sum(self._num_games.get(path, 0) for path in paths), signs_of_life=signs)


class UnknownSubject(Subject):
    """A command without progress."""

    def __init__(self, location: str) -> None:
        self.location = location

    def progress(self) -> Progress:
        return Progress()


def subject_of(card: RunCard) -> Subject:
    """What a job works on.

    Raises:
        UserError: the verb would refuse the arguments.
    """
    if card.verb in ("train", "sweep"):
        if card.config is None:
            raise UserError(f"no config given; expected {card.verb} CONFIG")
        file = config_file(card.config, card.verb)
        if card.verb == "train":
            return RunSubject(load_yaml(file, RunConfig, card.arguments))
        return SweepSubject(load_yaml(file, SweepConfig, without_retry(card.arguments)))
    if card.verb == "encode":
        return CorpusSubject(_option(card.arguments, "--out"))
    return UnknownSubject(card.out or card.job)


def need_of_run(config: RunConfig) -> Need:
    """What a run's workers must have at least."""
    return Need(kind="GPU" if config.use_gpu else "CPU", amount=config.min_workers)


class _Log:
    """A run's log, which is read again only when it has changed."""

    def __init__(self, files: RunFiles, name: str) -> None:
        self._files, self._name = files, name
        self._version: tuple[int, ...] | None = None
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        version = self._files.version(self._name)
        if version != self._version or not version:
            try:
                self._rows = parse_log(self._files.read(self._name).decode(errors="replace"))
            except (FileNotFoundError, NotADirectoryError):
                self._rows = []
            self._version = version
        return self._rows


def _targets(rows: Sequence[dict[str, Any]]) -> int:
    """Targets seen at the newest row; after a resume later rows replace those they repeat."""
    return next((row["targets_seen"] for row in reversed(rows) if row["kind"] in SIGNS), 0)


def _signs(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["kind"] in SIGNS for row in rows)


def _starts(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["kind"] == "start" for row in rows)


def _has_moved(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the newest attempt has written more than its row `start`."""
    signs = [row["kind"] for row in rows if row["kind"] in SIGNS]
    return bool(signs) and signs[-1] != "start"


def _option(arguments: Sequence[str], name: str) -> str:
    for word, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == name:
            return value
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    raise UserError(f"no {name} given; `wm encode --help` shows the options")
