"""The options that `wm plan` has for each verb: limits, prices, and where the plan is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cluster.plan.command.text import describe
from cluster.plan.deadline import deadline_at, hours_between
from cluster.plan.plan import Plan
from cluster.plan.proposals import Limits
from datasets.runtime.durable_files import write_result

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """What a plan must stay within, and where it goes."""

    deadline: str | None = None
    """07:00, the next time the clock shows it here, or a date and time"""
    budget: Positive | None = None
    """USD"""
    price: tuple[str, ...] = ()
    """TYPE=USD an hour for one machine, instead of the listed price"""
    json: Path | None = None
    """write the plan as JSON"""
    html: Path | None = None
    """write a page to open in a browser"""

    def limits(self) -> Limits:
        """The limits from now on.

        Raises:
            UserError: the deadline has passed or is no time.
        """
        now = datetime.now(UTC).astimezone()
        moment = None if self.deadline is None else deadline_at(self.deadline, now)
        hours = None if moment is None else hours_between(now, moment)
        return Limits(hours=hours, usd=self.budget, now=now, deadline=moment)

    def show(self, found: Plan) -> None:
        """Print a plan, and write it where it was asked for."""
        print(describe(found))
        if self.json is not None:
            write_result(self.json, found.plain())
        if self.html is not None:
            from cluster.plan.command.page import write_plan_page

            print(f"\n{write_plan_page(self.html, found)}")
