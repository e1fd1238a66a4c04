"""Numbers as text."""

from __future__ import annotations

import math
from typing import Literal

NO_VALUE = "–"  # en dash
Kind = Literal["amount", "share", "count"]


def finite(value: object) -> float | None:
    """The value as a float, or None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def format_value(value: float | None, kind: Kind = "amount") -> str:
    """0.7123 as 71.2% if it is a share, as 0.712 if it is an amount; two significant digits for small amounts."""
    if value is None:
        return NO_VALUE
    if not math.isfinite(value):
        return "not finite"
    if kind == "share":
        return f"{value:.1%}"
    if kind == "count":
        return f"{value:,.0f}"
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.3f}" if abs(value) < 1_000 else f"{value:,.0f}"


def format_count(value: object) -> str:
    """20000 as 20,000; a dash for what is not a number."""
    return format_value(finite(value), "count")
