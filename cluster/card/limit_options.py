"""Limits from the command line, and from a YAML file with the fields of `Limits`."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from cluster.card.limits import Limits, parse_deadline
from cluster.plan.machines import hourly_prices, parse_price
from datasets.runtime.errors import UserError
from wm.config.run_config import PositiveFloat
from wm.config.typed_yaml import from_plain, load_yaml, to_plain

KILL = re.compile(r"\s*(\w+)@(\w+)\s*([<>])\s*(\S+)\s+at\s+([\d_,]+)\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitOptions:
    """What a job may cost, and how often it is started again."""

    limits: Path | None = None
    """YAML file with the fields of the card's limits; the options below take precedence."""
    retries: NonNegativeInt | None = None
    """Restarts of the command after it died (default: 3)."""
    stall: PositiveFloat | None = None
    """Minutes without new targets after which the workers are restarted."""
    max_stalls: NonNegativeInt | None = None
    """Restarts after a stall (default: 3)."""
    deadline: str | None = None
    """Save and end at this time: 07:00, or an ISO time."""
    budget: PositiveFloat | None = None
    """Save and end at this cost, dollars."""
    price: tuple[str, ...] = ()
    """Dollars an hour that the budget counts, such as GPU=1.5 for your own machines, or p4d.24xlarge:spot=12 (default:
    those of `wm plan`)."""
    machines_minutes: PositiveFloat | None = None
    """Report machines that have not come after so many minutes (default: 15)."""
    fallback: str | None = None
    """Arguments added to the command when its machines do not come: --fallback='--num-workers 1'."""
    kill: tuple[str, ...] = ()
    """Stop a run that has not learnt enough: 'change_acc@10 < 0.3 at 2000000' (metric, context, value, targets)."""
    webhook: str | None = None
    """URL that gets messages, as JSON that Slack and Discord take."""
    webhook_every: PositiveInt | None = None
    """A message each time so many targets were seen."""


def limits_of(options: LimitOptions, now: datetime) -> Limits:
    """The limits that the options ask for.

    Args:
        now: with the user's zone, for deadlines such as 07:00.
    Raises:
        UserError: an option or the file is wrong.
    """
    base = {} if options.limits is None else to_plain(load_yaml(options.limits, Limits))
    given: dict[str, Any] = {
        "retries": options.retries,
        "stall_minutes": options.stall,
        "max_stalls": options.max_stalls,
        "deadline": options.deadline and parse_deadline(options.deadline, now),
        "budget_usd": options.budget,
        "prices": hourly_prices() | base.get("prices", {}) | dict(map(parse_price, options.price)),
        "machines_minutes": options.machines_minutes,
        "fallback": options.fallback and shlex.split(options.fallback),
        "kill": [_kill_rule(text) for text in options.kill] or None,
        "webhook": options.webhook,
        "webhook_every_targets": options.webhook_every,
    }
    found = from_plain(base | {name: value for name, value in given.items() if value is not None}, Limits, "limits")
    if found.deadline is not None and found.deadline <= now:
        raise UserError(f"the deadline {found.deadline.isoformat()} has passed; expected a time in the future")
    return found


def _kill_rule(text: str) -> dict[str, Any]:
    """Plain data of a KillRule."""
    match = KILL.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        metric, context, sign, value, targets = match.groups()
        return {
            "metric": metric,
            "context": int(context) if context.isdigit() else context,
            "at_targets": int(re.sub(r"[_,]", "", targets)),
            "below" if sign == "<" else "above": float(value),
        }
    except ValueError as error:
        raise UserError(f"--kill {text!r}: expected METRIC@CONTEXT < VALUE at TARGETS, or > instead of <") from error
