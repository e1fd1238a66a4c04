"""The state of a trial, from its files and its checkpoints: the same whoever asks, and after any kill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tune.results.rung_record import stop_decision
from wm.config.run_config import RunConfig
from wm.runs.run import DRIVER_LOCK, RUN_FILE, Run
from wm.runs.run_files import RunFiles

FAILED_FILE = "failed.json"
OUTAGE_S = 600.0
"""How long a running sweep and its trials wait for object storage that is away, at each request."""

State = Literal["pending", "running", "interrupted", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
"""States of a trial that does not run again."""
FailureKind = Literal["out of memory", "diverged", "died", "user error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a trial failed, the content of failed.json."""

    kind: FailureKind
    reason: str
    """One line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialStatus:
    """Where a trial stands."""

    state: State
    """pending: never started. running: a process holds its lock (in object storage, until its lease ends). interrupted:
    started, and no process runs it. finished: trained and evaluated to its end. stopped: by ASHA. failed: it ends
    before its end each time."""
    targets_seen: int = 0
    """By its newest checkpoint, or at the validation after which ASHA stopped it."""
    reason: str = ""
    """Why it was stopped or failed."""


def run_of(config: RunConfig) -> Run:
    """A trial as a run, for the command that runs the sweep: it waits for the end of an outage of the storage."""
    return Run(config, retry_s=OUTAGE_S)


def status_of(run: Run) -> TrialStatus:
    """Where a trial stands.

    Args:
        run: of the trial; its checkpoints may be elsewhere.
    Raises:
        UserError: its checkpoints cannot be reached.
        OSError: its files cannot be read at the moment.
    """
    files = run.files
    if not files.exists(RUN_FILE):
        if (failure := failure_of(files)) is not None:
            return TrialStatus(state="failed", reason=failure.reason)
        if (decision := stop_decision(files)) is not None:  # before it began, with another seed of its setting
            return TrialStatus(state="stopped", reason=decision.reason)
        return TrialStatus(state="pending")
    return status_at(run, run.checkpoints.newest_meta())


def status_at(run: Run, meta: dict[str, Any] | None) -> TrialStatus:
    """Where a trial that has started stands.

    Args:
        meta: of its newest checkpoint.
    """
    files = run.files
    targets_seen = 0 if meta is None else meta["targets_seen"]
    if run.is_complete(meta):
        return TrialStatus(state="finished", targets_seen=targets_seen)
    if (failure := failure_of(files)) is not None:
        return TrialStatus(state="failed", targets_seen=targets_seen, reason=f"{failure.kind}: {failure.reason}")
    if (decision := stop_decision(files)) is not None:
        return TrialStatus(state="stopped", targets_seen=decision.targets_seen, reason=decision.reason)
    state = "running" if files.is_locked(DRIVER_LOCK) else "interrupted"
    return TrialStatus(state=state, targets_seen=targets_seen)


def mark_failed(files: RunFiles, failure: Failure) -> None:
    """Record that a trial failed, perhaps before it had a folder, so that it runs again only if asked to."""
    files.create()
    files.write_json(FAILED_FILE, asdict(failure))


def failure_of(files: RunFiles) -> Failure | None:
    """Why a trial failed; None if it did not."""
    try:
        content = json.loads(files.read(FAILED_FILE))
        kind, reason = content["kind"], content["reason"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return Failure(kind="died", reason=f"{FAILED_FILE} is damaged")
    return Failure(kind=kind if kind in get_args(FailureKind) else "died", reason=str(reason))


def forget_failure(files: RunFiles) -> None:
    """Let a failed trial run again."""
    files.delete(FAILED_FILE)
