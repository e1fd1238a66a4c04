"""Numbers as people read them, and ticks for axes."""

from __future__ import annotations

import math

from wm.report.markup import Markup, tag

NO_DATA = "–"  # en dash
SUFFIXES = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def number(value: object) -> float | None:
    """A finite number, or None: for what is drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def share_text(value: float) -> str:
    """0.713 -> 71.3%."""
    return f"{value * 100:.1f}%"


def amount_text(value: float) -> str:
    """Three decimals, or two significant digits where these would say nothing."""
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.3f}" if abs(value) < 1_000 else f"{value:,.0f}"


def value_text(value: float | None, is_share: bool) -> str:
    """A metric's value as text; an en dash without data."""
    if value is None:
        return NO_DATA
    if not math.isfinite(value):
        return "not finite"
    return share_text(value) if is_share else amount_text(value)


def data(value: float | None, text: str) -> Markup:
    """A number as shown, with the exact one behind it for whoever reads the page by machine."""
    return Markup(text) if value is None else tag("data", text, value=repr(value))


def count_text(value: object) -> str:
    """20000 -> 20,000; an en dash without data."""
    finite = number(value)
    return NO_DATA if finite is None else f"{finite:,.0f}"


def compact_text(value: float) -> str:
    """1530000 -> 1.53M."""
    for size, suffix in SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def duration_text(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def bytes_text(num_bytes: float) -> str:
    """Decimal units, as disks are sold."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def tick_step(low: float, high: float, wanted: int) -> float:
    """The step of 1, 2, 2.5 or 5 times a power of ten that gives about `wanted` steps from low to high."""
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def tick_texts(ticks: list[float], step: float, is_share: bool) -> list[str]:
    """Labels of linear ticks, all with the decimals that the step needs and the same suffix."""
    if is_share:
        return [f"{tick * 100:.{_decimals(step * 100)}f}%" for tick in ticks]
    largest = max(abs(tick) for tick in ticks)
    size, suffix = next(((s, name) for s, name in SUFFIXES if largest >= s), (1.0, ""))
    return [f"{tick / size:.{_decimals(step / size)}f}{suffix}" if tick else "0" for tick in ticks]


def _decimals(step: float) -> int:
    """Decimals with which multiples of a step are written exactly (steps are 1, 2, 2.5 or 5 times 10^n)."""
    return next((n for n in range(9) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 9)
