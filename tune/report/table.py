"""Results as aligned text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tune.results.sweep_folder import ResultRow, SweepManifest
from tune.search.trials import axes_text
from wm.evaluation.metrics import context_order

WIDTH = 100
"""Columns of a terminal."""


def paragraph(text: str, indent: str = "") -> str:
    """Text in lines of at most WIDTH columns, the further ones indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (header, *rows)
    ]
    return "\n".join(lines)


def number_text(value: float | None, digits: int = 3) -> str:
    """A number, or a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def amount_text(value: float) -> str:
    """A large number with a unit prefix."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def count_text(number: int) -> str:
    """A count, shortened from 100,000 on."""
    return f"{number:,}" if number < 100_000 else amount_text(number)


def bytes_text(num_bytes: int) -> str:
    """A size in memory; a dash for nothing."""
    if not num_bytes:
        return "–"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.0f} kB"


def flops_text(flops: float) -> str:
    """FLOPs with a unit prefix."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if flops >= size:
            return f"{flops / size:.1f} {unit}FLOP"
    return f"{flops:.0f} FLOP"


def trials_table(manifest: SweepManifest, rows: Sequence[ResultRow]) -> str:
    """One line for each trial: its state, its last change_acc at each K, and the coherence of its dreams."""
    contexts = sorted({row.context for row in rows}, key=context_order)
    last = {(row.trial, row.context): row for row in rows}
    lines = []
    for name, facts in manifest.trials.items():
        rows_of_trial = [last[name, context] for context in contexts if (name, context) in last]
        values = [last[name, k].change_acc if (name, k) in last else None for k in contexts]
        lines.append(
            (
                axes_text(facts["axes"]),
                manifest.status(name).state,
                f"{max((row.targets_seen for row in rows_of_trial), default=0):,}",
                f"{facts['num_parameters'] / 1e6:.1f} M",
                number_text(max((row.seconds for row in rows_of_trial), default=None), 0),
                *(number_text(value) for value in values),
                number_text(next((row.coherence_20 for row in rows_of_trial if row.coherence_20 is not None), None), 2),
            )
        )
    header = ("trial", "state", "targets", "parameters", "train s", *(f"K={k}" for k in contexts), "coherence")
    title = (
        "change_acc of every trial, the targets it has seen, and the coherence of its dreams: position error over 20 "
        "frames, game units"
    )
    return f"{paragraph(title)}\n{text_table(header, lines)}"
