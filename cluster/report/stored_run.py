"""A run as it is stored, on a disk or in a bucket, opened for reading alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cluster.card.run_card import CARD_FILE, RunCard, parse_card
from cluster.watch.journal import RUN_EVENTS_FILE
from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_stored
from wm.runs.crash_history import ATTEMPTS_FILE
from wm.runs.run import CONFIG_FILE, ENVIRONMENT_FILE, RUN_FILE, Run
from wm.runs.run_files import open_run_files
from wm.runs.run_log import LOG_FILE, parse_log

Row = dict[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """A run's files. What is missing is empty.

    Attributes:
        given: folder or URI as the user named it, with the credentials of a URI.
        run: the run, whose storage is `given`, wherever it was when it ran.
    """

    given: str
    run: Run

    @property
    def location(self) -> str:
        """Without credentials."""
        return self.run.location

    @cached_property
    def log(self) -> list[Row]:
        """Rows of log.jsonl."""
        return parse_log(self.text(LOG_FILE))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """environment.json."""
        return self.run.files.read_json(ENVIRONMENT_FILE)

    @cached_property
    def watch_events(self) -> list[Row]:
        """Rows of watch.jsonl."""
        return self._appended(RUN_EVENTS_FILE)

    @cached_property
    def attempts(self) -> list[Row]:
        """Rows of attempts.jsonl."""
        return self._appended(ATTEMPTS_FILE)

    @cached_property
    def card(self) -> RunCard | None:
        """The run card; None if the run has none, or it is of another version."""
        try:
            return parse_card(self.run.files.read(CARD_FILE), CARD_FILE)
        except (FileNotFoundError, UserError):
            return None

    @cached_property
    def meta(self) -> Row | None:
        """meta.json of the newest checkpoint; None if there is none."""
        return self.run.checkpoints.newest_meta()

    @property
    def is_finished(self) -> bool:
        """Whether it trained and was evaluated to its end."""
        return self.run.is_complete(self.meta)

    @property
    def targets_seen(self) -> int:
        """At the newest checkpoint or row of the log."""
        seen = [row.get("targets_seen", 0) for row in self.log if row["kind"] in ("train", "eval")]
        return max([0 if self.meta is None else self.meta["targets_seen"], *seen[-1:]])

    @cached_property
    def last_command(self) -> datetime:
        """When the newest command started."""
        times = [time_of(entry.get("started")) for entry in self.environment.get("commands") or []]
        return max((time for time in times if time is not None), default=datetime.min.replace(tzinfo=UTC))

    def text(self, name: str) -> str:
        """A file as text; empty if it does not exist."""
        try:
            return self.run.files.read(name).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _appended(self, name: str) -> list[Row]:
        rows = []
        for line in self.run.files.read_appended(name).decode(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # empty, or cut off by a kill
                continue
            rows += [row] if isinstance(row, dict) else []
        return rows


def open_stored_run(location: str) -> StoredRun:
    """A run by its folder or URI.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    files = open_run_files(location)
    try:
        files.check()
        if not files.version(RUN_FILE):
            raise UserError(f"{files.location} is not a run ({RUN_FILE} is missing); name a run's folder or URI")
        stored = yaml.safe_load(files.read(CONFIG_FILE))
        config = from_stored(stored, RunConfig, files.path_of(CONFIG_FILE))
    except FileNotFoundError as error:
        raise UserError(f"{files.path_of(CONFIG_FILE)} is missing; run its command again to write it") from error
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{files.location} cannot be read ({error}); check the path and the connection") from error
    place: Any = location if is_remote(location) else Path(location).resolve()
    return StoredRun(location, Run(replace(config, out=place)))


def runs_beside(run: StoredRun) -> list[str]:
    """Locations of the other runs in the same parent folder."""
    path, mark, query = run.given.partition("?") if is_remote(run.given) else (str(run.run.config.out), "", "")
    parent, _, own = path.rstrip("/").rpartition("/")
    if not parent or parent.endswith(":/"):
        return []
    names = open_run_files(f"{parent}{mark}{query}").names()
    return [f"{parent}/{name}{mark}{query}" for name in names if name != own and not name.startswith(".")]


def time_of(text: object) -> datetime | None:
    """A time with its zone from ISO text; a time without one is that of this machine."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time.astimezone(UTC)
