"""Axes: numbers to places on the page, with round ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from wm.report.formats import compact_text, tick_step, tick_texts

LOG_RATIO = 12
"""From this ratio of the largest to the smallest value on, positive amounts get a logarithmic axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A linear or logarithmic axis; `start` and `end` are the places of `low` and `high`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    """Values and their labels."""
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies; what is outside lies on the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.is_log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def linear_scale(values: list[float], start: float, end: float, *, is_share: bool = False, num_steps: int = 4) -> Scale:
    """From the round number below the smallest value to the one above the largest."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = 0.05 if is_share else abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
        if is_share:
            low, high = max(0.0, low), min(1.0, high)
    step = tick_step(low, high, num_steps)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [round(i * step, 12) for i in range(first, last + 1)]
    labels = tick_texts(ticks, step, is_share)
    return Scale(low=ticks[0], high=ticks[-1], start=start, end=end, ticks=tuple(zip(ticks, labels, strict=True)))


def amount_scale(values: list[float], start: float, end: float) -> Scale:
    """Logarithmic where positive values span more than LOG_RATIO, else linear."""
    if not values or min(values) <= 0 or max(values) / min(values) < LOG_RATIO:
        return linear_scale(values, start, end)
    exponents = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 1)
    round_values = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    low = max(value for value in round_values if value <= min(values) * (1 + 1e-9))
    high = min(value for value in round_values if value >= max(values) * (1 - 1e-9))
    ticks = [value for value in round_values if low <= value <= high]
    if len(ticks) > 7:
        ticks = [value for value in ticks if f"{value:e}".startswith("1")]
    labelled = tuple((value, compact_text(value)) for value in ticks)
    return Scale(low=low, high=high, start=start, end=end, ticks=labelled, is_log=True)


def count_scale(values: list[float], start: float, end: float) -> Scale:
    """From zero to the largest value, or to a round number that lies just above it; ticks are round."""
    high = max([*values, 0.0]) or 1.0
    step = tick_step(0.0, high, 4)
    if (above := math.ceil(high / step - 1e-9) * step) < high * 1.05:
        high = above
    ticks = [i * step for i in range(int(high / step + 1e-9) + 1)]
    labels = tick_texts(ticks, step, is_share=False)
    return Scale(low=0.0, high=high, start=start, end=end, ticks=tuple(zip(ticks, labels, strict=True)))


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places moved apart to at least `gap`, in the same order and as little as possible, within low..high.

    Neighbours that would touch become one block around their mean (pooling of adjacent violators).
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[float]] = []  # places, less what the gaps before them take
    for rank, i in enumerate(order):
        blocks.append([places[i] - rank * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    starts = [fmean(block) for block in blocks for _ in block]
    last_start = max(low, high - (len(places) - 1) * gap)
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = min(max(starts[rank], low), last_start) + rank * gap
    return moved
