"""The choice of K for a terminal of 100 columns: the verdict, the evidence, the costs, where context helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datasets.runtime.errors import UserError
from datasets.runtime.text_format import format_duration
from tune.analysis.choice import ContextResult, RuleResult
from tune.report.choose_k import ChoiceReport, choose
from tune.report.scaling_text import scaling_sentence
from tune.report.slices import DIMENSIONS, LEFT_OUT, SliceReport
from tune.report.table import (
    WIDTH,
    bytes_text,
    count_text,
    flops_text,
    number_text,
    paragraph,
    text_table,
)
from wm.evaluation.metrics import context_order, context_text

MAX_SETTING_CHARS = 24
MAX_LABELS = 6
"""Of a dimension; the page and the JSON have all."""


def describe(report: ChoiceReport) -> str:
    """The whole choice as text."""
    choice = report.choice
    parts = [
        paragraph(" ".join(part for part in (choice.reason, report.more_text) if part)),
        _quality_table(report, choice.results[0], is_main=True),
        *(_quality_table(report, result, is_main=False) for result in choice.results[1:]),
        _cost_table(report),
    ]
    if len({cell.setting for cell in report.cells}) > 1:
        parts.append(_settings_table(report))
    if any(cell.coherence_20 is not None for cell in report.cells):
        parts.append(_dreams_table(report))
    if report.slices is not None:
        parts.append(_slices_table(report.slices))
    parts.append(paragraph(f"Scaling: {scaling_sentence(report.scaling)} `wm choose-size` shows the fit."))
    if report.notes:
        parts.append("\n".join(paragraph(f"Note: {note}.", indent="  ") for note in report.notes))
    return "\n\n".join(parts)


def choice_or_reason(path: Path | str) -> str:
    """The choice from a sweep that has just ended, or why there is none: its trials are worth keeping without one."""
    try:
        return describe(choose(path))
    except UserError as error:
        return paragraph(f"No choice of K: {error}")


def interval_text(value: float, low: float, high: float) -> str:
    """`0.733 [0.720, 0.745]`."""
    return f"{number_text(value)} [{number_text(low)}, {number_text(high)}]"


def _quality_table(report: ChoiceReport, result: RuleResult, *, is_main: bool) -> str:
    rule, choice = result.rule, report.choice
    unit = " as a fraction" if rule.relative else ""
    title = (
        f"{rule.metric} of the best setting at each K, and its loss to {context_text(result.reference)}{unit}, with "
        f"{choice.confidence:.0%} intervals; rule: {rule.text}"
    )
    header: tuple[str, ...] = ("   K", rule.metric, f"loss to {result.reference}", "status")
    if is_main:
        header += ("frames", "events", "games", "seeds")
    rows = [_quality_row(report, row, is_main=is_main) for row in result.rows]
    legend = []
    if is_main and choice.verdict != "undecided":
        legend.append("> the choice")
    if any(row.beyond_training for row in result.rows):
        legend.append("* longer than any context seen in training")
    return "\n".join([paragraph(title), text_table(header, rows), *(["; ".join(legend)] if legend else [])])


def _quality_row(report: ChoiceReport, row: ContextResult, *, is_main: bool) -> tuple[str, ...]:
    is_chosen = row.context == report.choice.context and report.choice.verdict != "undecided"
    cells: tuple[str, ...] = (
        f"{'>' if is_chosen else ' '}{row.context!s:>6}{'*' if row.beyond_training else ''}",
        interval_text(row.value, row.low, row.high),
        "–" if row.status == "reference" else interval_text(row.loss, row.loss_low, row.loss_high),
        row.status,
    )
    if is_main:
        cells += tuple(map(count_text, (row.num_judged, row.num_events, row.num_games, row.num_seeds)))
    return cells


def _cost_table(report: ChoiceReport) -> str:
    header = ("   K", "ms/frame", "FLOP/frame", "state", "parameters", "training", "device time", "GB", "front")
    rows, settings = [], []
    for row in report.choice.results[0].rows:
        cell = report.cell(row.setting, row.context)
        fronts = ["play"] * cell.is_on_play_front + ["train"] * cell.is_on_train_front
        settings.append(row.setting)
        rows.append(
            (
                f" {row.context!s:>6}",
                number_text(cell.play.ms_per_frame, 2),
                flops_text(cell.play.flops_per_frame).removesuffix("FLOP"),
                bytes_text(cell.play.state_bytes),
                f"{cell.num_parameters / 1e6:.2f} M",
                flops_text(cell.train_flops).removesuffix("FLOP"),
                format_duration(cell.device_s),
                number_text(cell.peak_gb, 1),
                "+".join(fronts) or "–",
            )
        )
    title = (
        "Costs: of a frame when played on one core of this machine (a carried state costs the same for every K), and "
        "of training one seed (FLOP, device time, peak memory). Pareto fronts over all settings: quality against ms a "
        "frame (play), against training FLOPs (train)."
    )
    lines = text_table(header, rows).splitlines()
    room = WIDTH - max(map(len, lines)) - 2
    with_settings = [
        f"{line:<{WIDTH - room}}{shortened(text, room)}"
        for line, text in zip(lines, ["setting", *settings], strict=True)
    ]
    return "\n".join([paragraph(title), *with_settings])


def _settings_table(report: ChoiceReport) -> str:
    contexts = sorted({cell.context for cell in report.cells}, key=context_order)
    values = {(cell.setting, cell.context): cell for cell in report.cells}
    rows = []
    for setting in dict.fromkeys(cell.setting for cell in report.cells):
        own = [values.get((setting, k)) for k in contexts]
        seeds = max(cell.num_seeds for cell in own if cell is not None)
        texts = (number_text(None if cell is None else cell.value) for cell in own)
        rows.append((shortened(setting, MAX_SETTING_CHARS), str(seeds), *texts))
    header = ("setting", "seeds", *map(str, contexts))
    return f"{report.rule.metric} of each setting by K\n" + text_table(header, rows)


def _dreams_table(report: ChoiceReport) -> str:
    title = paragraph(
        "Dreams: coherence of each setting, the position error over 20 imagined frames in game units, a mean over its "
        "seeds. The state is carried, so it is the same for every K."
    )
    rows = [
        (shortened(setting, WIDTH // 2) or "all", number_text(coherence, 2))
        for setting, coherence in coherence_by_setting(report).items()
    ]
    return "\n".join([title, text_table(("setting", "coherence"), rows)])


def coherence_by_setting(report: ChoiceReport) -> dict[str, float | None]:
    """Setting -> coherence of its dreams, the best first and those without at the end."""
    found = {cell.setting: cell.coherence_20 for cell in report.cells}
    return dict(sorted(found.items(), key=lambda item: (item[1] is None, item[1] or 0.0, item[0])))


def _slices_table(slices: SliceReport) -> str:
    longer, shorter = slices.longer, slices.shorter
    title = paragraph(
        f"Where context helps: how much better {context_text(longer)} is in {slices.metric} than "
        f"{context_text(shorter)}, paired by game and seed"
    )
    header = ("", str(longer), str(shorter), "difference", "events", "games")
    rows = list(_slice_rows(slices))
    return "\n".join([title, text_table(header, rows)])


def _slice_rows(slices: SliceReport) -> Iterator[tuple[str, ...]]:
    for dimension, differences in slices.differences.items():
        yield (f"by {DIMENSIONS[dimension]}", "", "", "", "", "")
        for label, own in list(differences.items())[:MAX_LABELS]:
            yield (
                f"  {shortened(label, 26)}",
                number_text(own.value_a),
                number_text(own.value_b),
                interval_text(own.difference, own.low, own.high),
                f"{own.num_events:,}",
                f"{own.num_games:,}",
            )
        if len(differences) > MAX_LABELS:
            yield (f"  {len(differences) - MAX_LABELS} more: see --html or --json", "", "", "", "", "")
        if slices.num_left_out[dimension]:
            yield (f"  {slices.num_left_out[dimension]} with {LEFT_OUT}", "", "", "", "", "")


def shortened(text: str, max_chars: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
