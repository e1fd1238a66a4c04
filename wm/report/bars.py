"""Horizontal bars and strips as wide as the cell they stand in: places are percentages, so they need no scaling."""

from __future__ import annotations

from wm.report.markup import Markup, tag
from wm.report.results import Estimate

BAR_HEIGHT, STRIP_HEIGHT = 14, 26


def bar(estimate: Estimate, full: float, words: str, reference: float | None = None) -> Markup:
    """A bar from 0 to the value, its interval as a whisker, and a reference as an upright mark.

    Args:
        full: the value at the right end, in the units of the estimate.
        words: what the bar says, for whoever cannot see it.
    """
    interval = estimate.interval
    return tag(
        "svg",
        tag("title", words),
        tag("rect", x=0, y=3, width="100%", height=8, rx=2, class_="track"),
        tag("rect", x=0, y=3, width=_percent(estimate.value, full), height=8, rx=2, class_="bar"),
        _interval(interval, full, 7) if interval else None,
        _upright(reference, full, 1, 13) if reference is not None else None,
        role="img",
        class_="bar-row",
        height=BAR_HEIGHT,
    )


def strip(model: Estimate, baseline: Estimate | None, full: float, words: str) -> Markup:
    """Model and baseline as two marks on one line from 0 to `full`: a dot, and an upright dashed mark."""
    interval, baseline_interval = model.interval, baseline.interval if baseline else None
    return tag(
        "svg",
        tag("title", words),
        tag("rect", x=0, y=11, width="100%", height=4, rx=2, class_="track"),
        _band(baseline_interval, full, "baseline-band") if baseline_interval else None,
        _upright(baseline.value, full, 3, 23) if baseline and baseline.value is not None else None,
        _band(interval, full, "model-band") if interval else None,
        tag("circle", cx=_percent(model.value, full), cy=13, r=5, class_="dot"),
        role="img",
        class_="strip",
        height=STRIP_HEIGHT,
    )


def _percent(value: float | None, full: float) -> str:
    share = (value or 0.0) / full if full > 0 else 0.0
    return f"{min(max(share, 0.0), 1.0) * 100:.2f}%"


def _interval(interval: tuple[float, float], full: float, y: int) -> Markup:
    low, high = (_percent(end, full) for end in interval)
    return tag("line", x1=low, x2=high, y1=y, y2=y, class_="whisker")


def _band(interval: tuple[float, float], full: float, class_: str) -> Markup:
    low, high = (_percent(end, full) for end in interval)
    return tag("line", x1=low, x2=high, y1=13, y2=13, class_=class_)


def _upright(value: float | None, full: float, top: int, bottom: int) -> Markup:
    place = _percent(value, full)
    return tag("line", x1=place, x2=place, y1=top, y2=bottom, class_="reference")
