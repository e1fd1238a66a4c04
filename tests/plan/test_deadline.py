"""The next time that the clock shows 07:00."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from cluster.plan.deadline import deadline_at, hours_between
from datasets.runtime.errors import UserError

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("text", "now", "zone", "expected_hours"),
    [
        ("07:00", datetime(2026, 11, 28, 22, 0, tzinfo=BERLIN), BERLIN, 9.0),  # across midnight
        ("07:00", datetime(2026, 11, 29, 6, 30, tzinfo=BERLIN), BERLIN, 0.5),
        ("07:00", datetime(2026, 11, 29, 7, 0, tzinfo=BERLIN), BERLIN, 24.0),  # now is not next
        ("7:00", datetime(2026, 12, 31, 23, 0, tzinfo=BERLIN), BERLIN, 8.0),  # across the year
        ("00:00", datetime(2026, 11, 28, 22, 0, tzinfo=BERLIN), BERLIN, 2.0),
        ("07:00", datetime(2026, 11, 29, 3, 0, tzinfo=UTC), NEW_YORK, 9.0),  # there it is 22:00 of the day before
        ("07:00", datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), BERLIN, 10.0),  # clocks go back that night
        ("07:00", datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN), BERLIN, 8.0),  # and forward in this one
        ("2026-11-30T07:00", datetime(2026, 11, 28, 7, 0, tzinfo=BERLIN), BERLIN, 48.0),
        ("2026-11-29T07:00+00:00", datetime(2026, 11, 29, 1, 0, tzinfo=UTC), BERLIN, 6.0),
    ],
)
def test_the_next_seven_in_the_morning_is_found_in_every_zone(text, now, zone, expected_hours):
    found = deadline_at(text, now, zone)
    assert hours_between(now, found) == pytest.approx(expected_hours)
    assert found.tzinfo is not None and found > now


def test_this_machines_zone_is_the_default():
    now = datetime.now(UTC)
    found = deadline_at("07:00", now)
    assert 0 < hours_between(now, found) <= 25
    assert (found.hour, found.minute) == (7, 0)


@pytest.mark.parametrize("text", ["25:00", "7", "07:60", "tomorrow", "", "-1:00", "07:00:00:00", "٠٧:٠٠"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="expected a time of day such as 07:00"):
        deadline_at(text, datetime(2026, 11, 28, tzinfo=UTC))


def test_a_date_in_the_past_is_refused():
    with pytest.raises(UserError, match="has passed"):
        deadline_at("2026-11-27T07:00", datetime(2026, 11, 28, tzinfo=UTC), UTC)
