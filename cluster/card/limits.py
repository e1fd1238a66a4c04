"""Limits of a job: when the night watch restarts it, stops it, or says something."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt

from datasets.runtime.errors import UserError
from wm.config.run_config import Context, MetricName, NonNegativeFloat, PositiveFloat

CLOCK_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
WebAddress = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
DEFAULT_RETRIES = 3
DEFAULT_MAX_STALLS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class KillRule:
    """A metric that a run must have reached: otherwise it is stopped."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    metric: MetricName
    context: Context
    """Frames of context of the evaluation, or `stream`."""
    at_targets: PositiveInt
    """Judged at the first evaluation from here on, targets."""
    below: float | None = None
    """Stop if the metric is lower."""
    above: float | None = None
    """Stop if the metric is higher."""

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            raise ValueError(f"kill rule of {self.metric}: found both or none of below and above, expected one of them")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a job may cost and how often it is started again."""

    retries: NonNegativeInt = DEFAULT_RETRIES
    """Restarts of the command after it died; a user's mistake (exit code 2) is never tried again."""
    stall_minutes: PositiveFloat | None = None
    """No new targets for so long is a stall; None: derived from the estimate, at least 15."""
    max_stalls: NonNegativeInt = DEFAULT_MAX_STALLS
    """Restarts after a stall."""
    budget_usd: PositiveFloat | None = None
    """At this cost the job saves, reports and ends."""
    deadline: datetime | None = None
    """At this time the job saves, reports and ends; with its zone."""
    machines_minutes: PositiveFloat = 15.0
    """Machines that have not come after so long are reported, and `fallback` is used."""
    fallback: tuple[str, ...] = ()
    """Arguments added to the command when its machines do not come; empty: it goes on waiting."""
    kill: tuple[KillRule, ...] = ()
    webhook: WebAddress | None = None
    """Where messages are posted, as JSON that Slack and Discord take."""
    webhook_every_targets: PositiveInt | None = None
    """A message each time so many targets were seen; None: only at the start, at failures and at the end."""
    prices: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """Instance type (and `:spot`), or GPU or CPU -> dollars an hour of one, to compare with the budget."""

    def __post_init__(self) -> None:
        if self.deadline is not None and self.deadline.tzinfo is None:
            raise ValueError(f"deadline {self.deadline.isoformat()} has no zone; expected one, such as 07:00+02:00")


def parse_deadline(text: str, now: datetime) -> datetime:
    """`07:00`, the next one in the zone of `now`, or an ISO time; without a zone it is that of `now`.

    Raises:
        UserError: it is neither, or lies in the past.
    """
    if match := CLOCK_TIME.fullmatch(text.strip()):
        today = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    try:
        deadline = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UserError(
            f"--deadline is {text!r}; expected a time such as 07:00, or a date and time such as 2030-01-31T07:00"
        ) from error
    deadline = deadline if deadline.tzinfo is not None else deadline.replace(tzinfo=now.tzinfo)
    if deadline <= now:
        raise UserError(f"--deadline {text} has passed; expected a time in the future")
    return deadline
