"""What the watch sees and what it does: plain data, so that a whole night can be played in a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.card.job_folder import StopKind

Status = Literal["running", "finished", "failed", "stopped", "interrupted", "budget", "deadline", "killed"]
"""Of a job: `running` until it ends; `interrupted`: until another head node takes it up; `budget`, `deadline` and
`killed` (a metric) are limits of its card."""
EXIT_CODES: dict[str, int] = {"finished": 0, "stopped": 143, "interrupted": 143}
"""Of `wm watch` by status; 1 for the others. A user's mistake has the code of the command, 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine that is there now."""

    node_id: str
    name: str
    """Address or host name, for messages."""
    usd_per_hour: float | None = 0.0
    """None: unknown, and not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What is seen at one moment."""

    exit_code: int | None = None
    """Of the command that was started last; None while it runs. Negative for a signal."""
    targets: int | None = None
    """Progress: targets seen (train, sweep), games committed (encode); None if there is none or it is unknown."""
    signs_of_life: int = 0
    """A number that changes with every row of the log, also where `targets` does not."""
    starts: int | None = None
    """Rows `start` of the log; None where there is no log."""
    has_moved: bool = False
    """Whether other rows follow the newest of them, in a log that belongs to one run."""
    total_targets: int | None = None
    """At which only the final evaluation is left."""
    evaluations: tuple[dict[str, Any], ...] = ()
    """The rows `eval` of the run's log."""
    nodes: tuple[Node, ...] | None = None
    """None if they cannot be seen at the moment."""
    draining: frozenset[str] = frozenset()
    """Ids of nodes whose end was announced."""
    missing: str | None = None
    """The machines that the command waits for, as `0 of 8 GPUs`; None if it has what it needs."""
    stop: StopKind | None = None
    """Whether the job was asked to end, with a save or at once."""
    is_interrupted: bool = False
    """Whether it was asked because this machine is being shut down, and not by its user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Start the command."""

    attempt: int
    """1 for the first start."""
    arguments: tuple[str, ...] = ()
    """After the card's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terminate:
    """Ask the command to save and end: SIGTERM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """End the command and its workers on all nodes: SIGKILL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpStacks:
    """Collect the stacks of the workers on all nodes and of the driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An event for events.jsonl and watch.jsonl."""

    kind: str
    message: str
    facts: dict[str, Any] = field(default_factory=dict)
    notifies: bool = False
    """Whether the webhook is told too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """The job has ended: release the machines and exit."""

    status: Status
    reason: str
    exit_code: int


Action = Start | Terminate | Kill | DumpStacks | Report | Finish
