"""A deadline such as 07:00 as a moment, and how long it is until then."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, tzinfo

from datasets.runtime.errors import UserError

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def deadline_at(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """The moment of a deadline.

    Args:
        text: `07:00`, the next time that a clock in the zone shows it, or an ISO date and time. One without a zone is
            of the zone.
        now: with a zone.
        zone: None is this machine's.
    Raises:
        UserError: it is neither, or has passed.
    """
    found = CLOCK.fullmatch(text.strip())
    if found is not None:
        clock, today = time(int(found[1]), int(found[2])), now.astimezone(zone).date()
        days = (_in_zone(datetime.combine(today + timedelta(days=ahead), clock), zone) for ahead in (0, 1))
        return next(moment for moment in days if moment > now)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UserError(
            f"deadline {text!r}: expected a time of day such as 07:00, or a date and time such as 2026-12-01T07:00"
        ) from None
    if moment.tzinfo is None:
        moment = _in_zone(moment, zone)
    if moment <= now:
        raise UserError(f"deadline {text} has passed: it is {now.astimezone(zone).isoformat(timespec='minutes')}")
    return moment


def hours_between(now: datetime, later: datetime) -> float:
    """Hours that pass between two moments, also where clocks are changed between them."""
    return (later.timestamp() - now.timestamp()) / 3_600


def _in_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    """A moment without a zone as a clock in the zone shows it; the offset is that of its own day."""
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
