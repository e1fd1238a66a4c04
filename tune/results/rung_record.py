"""The decisions of ASHA about one trial, in its storage before they take effect.

rungs.jsonl of the trial has a row per decision; in object storage it is a folder with an object for each. A validation
that is in the trial's log and not here was logged just before a kill: it is decided when the sweep runs again, before
the trial goes on.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass

from wm.runs.run_files import RunFiles

RUNGS_FILE = "rungs.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class RungDecision:
    """What ASHA decided about a trial at one validation."""

    targets_seen: int
    """Of the validation."""
    rung: float | None
    """The rung that the trial was compared at, in targets or FLOPs; None if it was stopped with another seed."""
    score: float | None
    """What was compared; None if the metric has no value."""
    stops: bool
    """Whether the trial ends here."""
    reason: str = ""
    """In words, for tables and messages."""


def record_decision(files: RunFiles, decision: RungDecision) -> None:
    """Append a decision; returns when the storage has it.

    Args:
        files: of the trial, which may not have begun.
    Raises:
        OSError: it cannot be written.
    """
    files.create()
    # On its own line, also after one that a kill cut off.
    files.append(RUNGS_FILE, f"\n{json.dumps(asdict(decision))}\n".encode())


def decisions_of(files: RunFiles) -> list[RungDecision]:
    """The decisions about a trial in their order; a line that a kill cut off is none.

    Raises:
        OSError: they cannot be read at the moment.
    """
    found = []
    for line in files.read_appended(RUNGS_FILE).splitlines():
        with contextlib.suppress(ValueError, TypeError):
            found.append(RungDecision(**json.loads(line)))
    return found


def stop_decision(files: RunFiles) -> RungDecision | None:
    """The decision that ended a trial; None if none did."""
    return next((decision for decision in reversed(decisions_of(files)) if decision.stops), None)
