"""A plan as one HTML page."""

from __future__ import annotations

from pathlib import Path

from cluster.plan.command.text import expected_text
from cluster.plan.estimate import PARTS
from cluster.plan.plan import Plan
from cluster.plan.proposals import Proposal
from datasets.runtime.text_format import format_duration
from tune.report.table import amount_text
from wm.report.charts import Axis, Category, Estimate, bars_with_intervals
from wm.report.page import Chart, render_page, write_page

MAX_BARS = 24
SMALL_PART = 0.001


def write_plan_page(path: Path, plan: Plan) -> Path:
    """Write the page, and return its path."""
    return write_page(path, render_plan(plan))


def render_plan(plan: Plan) -> str:
    """The page as text."""
    proposals = [one for one in plan.proposals if isinstance(one, Proposal)]
    facts = [("Planned at", f"{plan.limits.now:%Y-%m-%d %H:%M %Z}")]
    if plan.limits.deadline is not None and plan.limits.hours is not None:
        facts.append(("Deadline", f"{plan.limits.deadline:%Y-%m-%d %H:%M %Z}, in {plan.limits.hours:.1f} h"))
    if plan.limits.usd is not None:
        facts.append(("Budget", f"{plan.limits.usd:,.2f} USD"))
    return render_page(
        "plan.html",
        package="cluster.plan.command",
        title="What will it take?",
        plan=plan,
        facts=facts,
        rows=[(one, plan.limits) for one in plan.proposals],
        charts=[_bars(plan, "hours"), _bars(plan, "usd")],
        times=[_parts(one) for one in proposals],
        proposals=proposals,
        reasons=list(dict.fromkeys(reason for one in plan.proposals for reason in one.estimates)),
        machines=dict.fromkeys(one.group.machine for one in plan.proposals),
        amount_text=amount_text,
        duration_text=format_duration,
        expected_text=expected_text,
    )


def _bars(plan: Plan, kind: str) -> Chart:
    """Hours or dollars of every proposal, and of every combination that was asked for."""
    named = [(one.name, getattr(one, kind)) for one in plan.proposals]
    named += [
        (f"{one.workload.name}, {_epochs(one.workload.epochs)}{one.group.text}", getattr(one, kind))
        for one in plan.options
    ]
    limit = plan.limits.hours if kind == "hours" else plan.limits.usd
    bars = [
        Category(
            name=name, estimate=Estimate(value=value), baseline=limit, is_worse=limit is not None and value > limit
        )
        for name, value in named[:MAX_BARS]
    ]
    title = {"hours": "Hours", "usd": "Dollars"}[kind]
    note = {"hours": "The mark is the deadline.", "usd": "The mark is the budget."}[kind] if limit is not None else ""
    return Chart(key=kind, title=title, note=note, figure=bars_with_intervals(bars, value=Axis(title=title.lower())))


def _epochs(epochs: float | None) -> str:
    return "" if epochs is None else f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}, "


def _parts(one: Proposal) -> Chart:
    """Where the time of a proposal goes."""
    seconds = one.estimate.seconds
    total = sum(seconds.values())
    bars = [
        Category(name=PARTS[part], estimate=Estimate(value=s / total), text=format_duration(s))
        for part, s in seconds.items()
        if s > SMALL_PART * total
    ]
    figure = bars_with_intervals(bars, value=Axis(title="share of the time", kind="share"))
    return Chart(key=f"parts-{one.name}", title=one.name.capitalize(), figure=figure)
