"""The choice of K as one self-contained HTML page: the verdict in words first, then the evidence."""

from __future__ import annotations

from pathlib import Path

from datasets.runtime.text_format import format_duration
from tune.report.choice_charts import (
    cost_charts,
    curves_chart,
    loss_chart,
    metric_axis,
    scaling_chart,
    slice_charts,
)
from tune.report.choice_text import coherence_by_setting, interval_text
from tune.report.choose_k import ChoiceReport
from tune.report.scaling import ScalingReport
from tune.report.scaling_text import allocation_text, law_text, scaling_sentence
from tune.report.table import bytes_text, flops_text, number_text
from wm.evaluation.metrics import context_text
from wm.report.page import render_page, write_page

VERDICT_CLASS = {"enough": "good", "needed": "good", "undecided": "unclear"}


def write_choice_page(path: Path, report: ChoiceReport) -> Path:
    """Write the page, and return its path."""
    return write_page(path, render_choice(report))


def render_choice(report: ChoiceReport) -> str:
    """The page as text."""
    choice, main, scaling = report.choice, report.choice.results[0], report.scaling
    rows = [(row, report.cell(row.setting, row.context)) for row in main.rows]
    return render_page(
        "choice.html",
        package="tune.report",
        title="Which context length K?",
        report=report,
        choice=choice,
        main=main,
        axis=metric_axis(main.rule.metric),
        verdict_class=VERDICT_CLASS[choice.verdict],
        explanation=_explanation(choice.reason),
        facts=_facts(report),
        rows=rows,
        curves=[curves_chart(report)],
        losses=[loss_chart(result, number) for number, result in enumerate(choice.results)],
        costs=cost_charts(report),
        coherence_by_setting=coherence_by_setting(report),
        slices=[] if report.slices is None else slice_charts(report.slices),
        scaling_charts=[chart] if (chart := scaling_chart(scaling)) is not None else [],
        scaling_statements=_scaling_statements(scaling),
        law=law_text(scaling.fit).splitlines() if scaling.is_fitted else [],
        context_text=context_text,
        interval_text=interval_text,
        number_text=number_text,
        flops_text=flops_text,
        bytes_text=bytes_text,
        duration_text=format_duration,
    )


def _facts(report: ChoiceReport) -> list[tuple[str, str]]:
    choice, rows = report.choice, report.choice.results[0].rows
    fewest = min(rows, key=lambda row: row.num_judged)
    return [
        ("Rule", "; ".join(result.rule.text for result in choice.results)),
        ("Compared with", context_text(choice.results[0].reference)),
        ("Judged frames", f"{fewest.num_judged:,}"),
        ("Events (actions that begin)", f"{min(row.num_events for row in rows):,}"),
        ("Games", f"{choice.num_games:,}"),
        ("Seeds", f"{choice.num_seeds:,}"),
        ("Trials", f"{report.num_trials:,}"),
    ]


def _explanation(reason: str) -> str:
    """The reason without the verdict, which is the headline."""
    text = reason.partition(": ")[2] or reason
    return text[:1].upper() + text[1:]


def _scaling_statements(scaling: ScalingReport) -> list[str]:
    if scaling.reason is None:
        return [allocation_text(own, scaling) for own in scaling.allocations]
    text = scaling_sentence(scaling)
    return [text[:1].upper() + text[1:]]
