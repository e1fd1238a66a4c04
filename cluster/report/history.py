"""What happened to a run and when, from all of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from cluster.report.stored_run import Row, StoredRun, time_of
from datasets.runtime.errors import one_line
from wm.report.morning import Moment, Tone

MAX_MOMENTS = 120
"""On the page. Of more, ordinary ones in the middle are left out."""
LEFT_OUT_KINDS = ("progress", "ended", "ending")
"""Events of the watch that say nothing beside the others."""
TONES: dict[str, Tone] = {
    "stall": "bad", "kill": "bad", "restart": "bad", "limit": "bad", "machines missing": "bad", "node lost": "bad",
    "webhook failed": "bad", "notice": "bad",
}  # fmt: skip
ENDS: dict[str, Tone] = {"finished": "good", "failed": "bad", "killed": "bad"}


def moments_of(run: StoredRun) -> list[Moment]:
    """All of them, the oldest first."""
    found = [*_of_watch(run.watch_events), *_of_workers(run), *_of_log(run.log)]
    if not run.watch_events:
        found += list(_of_commands(run.environment.get("commands") or []))
    return sorted(found, key=lambda moment: moment.at)


def shortened(moments: Sequence[Moment]) -> tuple[list[Moment], int]:
    """At most MAX_MOMENTS, and how many were left out: of the ordinary ones, those farthest from both ends."""
    excess = len(moments) - MAX_MOMENTS
    if excess <= 0:
        return list(moments), 0
    middle = len(moments) / 2
    ordinary = [number for number, moment in enumerate(moments) if moment.tone == "unclear"]
    dropped = set(sorted(ordinary, key=lambda number: abs(number - middle))[:excess])
    kept = [moment for number, moment in enumerate(moments) if number not in dropped]
    return kept[-MAX_MOMENTS:], len(moments) - min(len(kept), MAX_MOMENTS)


def _of_watch(events: Sequence[Row]) -> Iterator[Moment]:
    for row in events:
        at, kind = time_of(row.get("at")), str(row.get("kind"))
        if at is None or kind in LEFT_OUT_KINDS:
            continue
        tone: Tone = TONES.get(kind, "unclear")
        if kind == "end":
            tone = ENDS.get(str(row.get("status")), "unclear")
        yield Moment(at=at, kind=kind, text=str(row.get("message", "")), tone=tone)


def _of_commands(commands: Sequence[Row]) -> Iterator[Moment]:
    for entry in commands:
        if (at := time_of(entry.get("started"))) is not None:
            yield Moment(at=at, kind="command", text=str(entry.get("command", "")))


def _of_workers(run: StoredRun) -> Iterator[Moment]:
    """Starts of the workers, and what ended them: an exception, a preemption, or a death without a word."""
    rows = [row for row in run.attempts if "event" in row]
    starts = [number for number, row in enumerate(rows) if row["event"] == "start"]
    for start, end in pairwise([*starts, len(rows)]):
        first, rest = rows[start], rows[start + 1 : end]
        at = time_of(first.get("when"))
        if at is None:
            continue
        resumed = first.get("resumed_at") or 0
        yield Moment(at=at, kind="workers", text=f"began at {resumed:,} targets" if resumed else "began")
        for row in rest:
            if (when := time_of(row.get("when"))) is None:
                continue
            if row["event"] == "preempted":
                text = "saved and stopped before the end of a machine"
                yield Moment(at=when, kind="preemption", text=text, tone="bad")
            elif row["event"] == "crash":
                text = f"worker {row.get('rank')}: {row.get('error')}"
                yield Moment(at=when, kind="crash", text=text, tone="bad")
        following = rows[end] if end < len(rows) else None
        if following is not None and not rest and following.get("command") == first.get("command"):
            when = time_of(following.get("when"))
            text = "died without a word: killed, out of memory, or a lost machine"
            yield Moment(at=when or at, kind="death", text=f"workers {text}", tone="bad")


def _of_log(log: Sequence[Row]) -> Iterator[Moment]:
    for row in log:
        at = time_of(row.get("at")) if row.get("at") else None
        if at is None:
            continue
        if row["kind"] == "rollback":
            text = f"from {row['targets_seen']:,} to {row['to_targets']:,} targets: {row['reason']}"
            yield Moment(at=at, kind="rollback", text=text, tone="bad")
        elif row["kind"] == "problem":
            yield Moment(at=at, kind="warning", text=one_line(row.get("message")), tone="bad")
