"""A plan for a terminal, within 100 columns."""

from __future__ import annotations

from datetime import timedelta

from cluster.plan.estimate import PARTS
from cluster.plan.other_costs import Cost
from cluster.plan.plan import Plan
from cluster.plan.proposals import Limits, Proposal
from datasets.runtime.text_format import format_duration
from tune.report.table import amount_text, flops_text, paragraph, text_table

SMALL_PART = 0.01
"""Share of the time below which a part is not named."""
MAX_MACHINE_CHARS = 26


def describe(plan: Plan) -> str:
    """The plan as text."""
    parts = [paragraph(f"Plan for wm {plan.verb} {plan.title}."), *_limits_text(plan.limits)]
    parts.append(_table(plan))
    parts += [_proposal_text(one) for one in plan.proposals if isinstance(one, Proposal)]
    if len(plan.options) > 1:
        parts.append(f"All combinations\n{_options_table(plan)}")
    reasons = dict.fromkeys(reason for one in plan.proposals for reason in one.estimates)
    if reasons:
        parts.append("\n".join(["Estimates, not measured:", *(paragraph(f"- {reason}", "  ") for reason in reasons)]))
    parts += [_profiles_text(plan)] if plan.profiles else []
    parts += ["\n".join(paragraph(f"Note: {note}.") for note in plan.notes)] if plan.notes else []
    return "\n\n".join(parts)


def line_of(plan: Plan) -> str:
    """What was asked for in one line, for the run card."""
    main = plan.main
    about = "about " if main.estimates else ""
    duration = format_duration(3_600 * main.hours)
    return f"{about}{duration} and {main.usd:,.2f} USD on {main.group.text} for {_amount(main)}"


def _limits_text(limits: Limits) -> list[str]:
    texts = []
    if limits.deadline is not None and limits.hours is not None:
        texts.append(f"{limits.hours:.1f} h until {limits.deadline:%Y-%m-%d %H:%M %Z}")
    if limits.usd is not None:
        texts.append(f"budget {limits.usd:,.2f} USD")
    return [f"Limits: {', '.join(texts)}."] if texts else []


def _table(plan: Plan) -> str:
    header = ("proposal", "size", "amount", "machines", "time", "USD", "ends", "fits", "limited by")
    rows = []
    for one in plan.proposals:
        found = one.estimate if isinstance(one, Proposal) else None
        ends = plan.limits.now + timedelta(hours=one.hours)
        days = (ends.date() - plan.limits.now.date()).days
        sign = "~" if one.estimates else ""
        rows.append(
            (
                one.name,
                "–" if found is None else found.workload.name,
                _amount(one),
                one.group.text[:MAX_MACHINE_CHARS],
                f"{sign}{format_duration(3_600 * one.hours)}",
                f"{sign}{one.usd:,.2f}",
                f"{ends:%H:%M}{f' +{days}d' if days else ''}",
                "yes" if one.is_feasible else "NO",
                "–" if found is None else found.limited_by,
            )
        )
    return text_table(header, rows) + ("\n~ an estimate, see below" if any("~" in row[4] for row in rows) else "")


def _amount(one: Proposal | Cost) -> str:
    if one.targets is not None:
        return f"{amount_text(one.targets)} targets"
    return f"{amount_text(0 if isinstance(one, Proposal) else one.frames or 0)} frames"


def _proposal_text(one: Proposal) -> str:
    found = one.estimate
    total = sum(found.seconds.values())
    shares = [f"{PARTS[part]} {s / total:.0%}" for part, s in found.seconds.items() if s >= SMALL_PART * total]
    memory = found.memory
    facts = [] if memory.gpu_gb is None else [f"{memory.gpu_gb:.1f} GB of each GPU"]
    facts += [] if memory.host_gb is None else [f"{memory.host_gb:.1f} GB of each machine's memory"]
    facts += [f"{found.disk_gb:.1f} GB of disk", f"{found.num_checkpoints} checkpoints of {_size(found.checkpoint_gb)}"]
    speed = found.speed
    workers = f"{speed.workers} worker{'' if speed.workers == 1 else 's'}"
    batch = "" if speed.batch_size is None else f", batches of {speed.batch_size:,}"
    flops = flops_text(speed.targets_per_s * found.workload.network.flops_per_target)
    lines = [
        f"{one.name.capitalize()}: {found.workload.network.size_text} parameters, {one.reason}.",
        f"  {speed.targets_per_s:,.0f} targets/s ({flops}/s) with {workers}{batch}; {', '.join(facts)}.",
        f"  Time: {', '.join(shares)}.",
        f"  {expected_text(one)}",
        *(f"  Risk: {risk}." for risk in one.risks),
    ]
    return "\n".join(paragraph(line, "    ") for line in lines)


def expected_text(one: Proposal) -> str:
    """What the scaling fit expects of a proposal."""
    expected = one.expected
    if expected.val_loss is None:
        return f"Expected quality: nothing can be said, because {expected.reason}."
    texts = [
        f"{name} {value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
        for name, value in (("val_loss", expected.val_loss), ("change_acc", expected.change_acc))
        if value is not None
    ]
    more = f" ({expected.reason})" if expected.reason else ""
    return f"Expected at {expected.context}: {', '.join(texts)} (95 %, scaling fit){more}."


def _options_table(plan: Plan) -> str:
    rows = [
        (
            one.workload.name,
            "–" if one.workload.epochs is None else f"{one.workload.epochs:.3g}",
            amount_text(one.workload.targets),
            one.group.text[:MAX_MACHINE_CHARS],
            f"{'~' if one.estimates else ''}{format_duration(3_600 * one.hours)}",
            f"{one.usd:,.2f}",
            "yes" if plan.limits.allow(one) and one.memory.problem is None else "NO",
        )
        for one in plan.options
    ]
    return text_table(("size", "epochs", "targets", "machines", "time", "USD", "fits"), rows)


def _profiles_text(plan: Plan) -> str:
    lines = ["Profiles:"]
    for one in plan.profiles:
        profile = one.profile
        busy = busy_text(profile.steady_s, profile.steady_cpu_s, one.cores) if profile.device == "cpu" else None
        lines.append(
            paragraph(
                f"- {one.source}: {one.network.size_text} parameters, {one.targets_per_s:,.0f} targets/s on "
                f"{profile.workers} x {profile.device_name or profile.device}{'' if busy is None else f'; {busy}'}",
                "  ",
            )
        )
    groups = dict.fromkeys((found.group.machine.name, found.group.machine) for found in plan.options)
    lines += [
        paragraph(f"- {name}: {machine.usd_per_hour:g} USD/h ({machine.source}, {machine.checked_on})", "  ")
        for name, machine in groups
    ]
    return "\n".join(lines)


def busy_text(steady_s: float | None, cpu_s: float | None, cores: int) -> str | None:
    """A warning if a CPU was busy with other work while a profile was measured."""
    if not steady_s or cpu_s is None:
        return None
    share = cpu_s / (steady_s * cores)
    return None if share > BUSY else f"the machine was busy: training got {share:.0%} of its threads' time"


BUSY = 0.7
"""Share of its threads' time that training gets on a quiet machine, at least."""


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1e3 * gigabytes:.0f} MB"
