"""The decisions of ASHA about one trial, on the disk before they take effect.

rungs.jsonl in the trial's folder has a row per decision. A validation that is in the trial's log and not here was
logged just before a kill: it is decided when the sweep runs again, before the trial goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

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


def record_decision(folder: Path, decision: RungDecision) -> None:
    """Append a decision; returns when the disk has it.

    Args:
        folder: of the trial.
    Raises:
        OSError: it cannot be written.
    """
    with (folder / RUNGS_FILE).open("ab") as file:
        file.write(
            f"\n{json.dumps(asdict(decision))}\n".encode()
        )  # on its own line, also after one that a kill cut off
        file.flush()
        os.fsync(file.fileno())


def decisions_of(folder: Path) -> list[RungDecision]:
    """The decisions about a trial in their order; a line that a kill cut off is none."""
    try:
        lines = (folder / RUNGS_FILE).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            found.append(RungDecision(**json.loads(line)))
    return found


def stop_decision(folder: Path) -> RungDecision | None:
    """The decision that ended a trial; None if none did."""
    return next((decision for decision in reversed(decisions_of(folder)) if decision.stops), None)
