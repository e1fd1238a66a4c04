"""`wm report RUN`: one page for the morning, also as JSON, and as lines for the terminal."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.report.comparison import Judged, compare, estimate_of, evaluations_of, run_before
from cluster.report.history import moments_of, shortened
from cluster.report.next_step import last_end, next_step, status_of
from cluster.report.stored_run import StoredRun, open_stored_run, time_of
from datasets.corpus.info import CorpusInfo, corpus_info
from datasets.corpus.reader import open_corpus
from datasets.runtime.errors import UserError
from datasets.runtime.text_format import format_duration
from datasets.runtime.uris import is_remote
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import METRICS, context_order
from wm.launch.evaluate_checkpoint import EVAL_FILE
from wm.report.charts import Estimate
from wm.report.morning import Comparison, Morning, PlanRow
from wm.report.numbers import NO_VALUE
from wm.report.run_report import render_report
from wm.runs.run import CONFIG_FILE, DATA_FILE

REPORT_VERSION = 1
"""Of the JSON. 1: first."""
ONE_SEED = "Each run is one training: how much two trainings with different seeds differ is not in these intervals."


def morning_report(location: str, before: str | None = None) -> tuple[StoredRun, Morning]:
    """What a run's page shows of the night.

    Args:
        before: the run to compare with; None: the newest finished one beside it, evaluated on the same frames.
    Raises:
        UserError: there is no such run, or the two cannot be compared.
    """
    run = open_stored_run(location)
    comparison, note = _comparison(run, before)
    status, tone = status_of(run)
    moments, num_left_out = shortened(moments_of(run))
    plan, plan_note = _plan(run)
    return run, Morning(
        status=status,
        tone=tone,
        why=None if run.card is None else run.card.why,
        next_step=next_step(run, comparison),
        moments=tuple(moments),
        num_moments_left_out=num_left_out,
        plan=tuple(plan),
        plan_note=plan_note,
        comparison=comparison,
        comparison_note=note,
    )


def render(run: StoredRun, morning: Morning) -> str:
    """The page as text."""
    return render_report(
        title=run.run.name,
        log_rows=run.log,
        evaluation=evaluation_of(run),
        corpus=_corpus(run),
        environment=run.environment,
        config=run.text(CONFIG_FILE),
        morning=morning,
    )


def as_json(run: StoredRun, morning: Morning) -> dict[str, Any]:
    """The report as JSON data."""
    comparison = morning.comparison
    rows = [] if comparison is None else comparison.rows
    return {
        "report_version": REPORT_VERSION,
        "run": run.location,
        "finished": run.is_finished,
        "targets_seen": run.targets_seen,
        "status": morning.status,
        "next_step": morning.next_step,
        "why": morning.why,
        "best": (run.meta or {}).get("best") or None,
        "plan": [asdict(row) for row in morning.plan],
        "comparison": None
        if comparison is None
        else {
            "before": comparison.before,
            "what": comparison.what,
            "num_games": comparison.num_games,
            "metrics": [
                {
                    "metric": row.metric.key,
                    "context": row.context_text,
                    **{name: _plain(getattr(row, name)) for name in ("mine", "before", "difference")},
                    "verdict": row.tone,
                }
                for row in rows
            ],
        },
        "events": [
            {"at": moment.at.isoformat(), "kind": moment.kind, "text": moment.text} for moment in moments_of(run)
        ],
    }


def text_of(run: StoredRun, morning: Morning) -> str:
    """The report in a few lines."""
    lines = [f"{run.location}: {morning.status}", f"next step: {morning.next_step}"]
    lines += [f"{row.name:<20} planned {row.planned:<16} actual {row.actual}" for row in morning.plan]
    if morning.comparison is not None:
        lines.append(f"beside {morning.comparison.before} ({morning.comparison.what}):")
        for row in morning.comparison.rows:
            shown = row.metric.axis.format
            difference = f"{shown(row.difference.value)} [{shown(row.difference.low)}, {shown(row.difference.high)}]"
            name = f"{row.metric.key}, {row.context_text}"
            lines.append(
                f"  {name:<26}{shown(row.mine.value):>9} {shown(row.before.value):>9}  {difference}  {row.verdict}"
            )
    bad = [moment for moment in morning.moments if moment.tone == "bad"]
    lines += [f"{moment.at:%d %b %H:%M:%S} {moment.kind}: {moment.text}" for moment in bad[-10:]]
    return "\n".join(lines)


def evaluation_of(run: StoredRun) -> dict[str, Any]:
    """JSON data as that of `wm eval`: eval.json of the run, if it is of its newest checkpoint.

    Otherwise it is made of the sums that the run keeps, which have no baselines.
    """
    stored = run.run.files.read_json(EVAL_FILE)
    if (stored.get("training") or {}).get("targets_seen") == run.targets_seen and stored.get("results"):
        return stored
    judged = evaluations_of(run)
    if not judged:
        return {}
    newest = judged[0]
    dreams = {} if newest.dreams is None else {"coherence": newest.dreams}
    return dreams | {
        "checkpoint": f"{newest.targets_seen:,} targets",
        "split": "validation" if run.run.config.eval_corpus is None else "all",
        "num_targets": max(int(sums.num_frames.sum()) for sums in newest.sums.values()),
        "num_games": max(len(sums) for sums in newest.sums.values()),
        "results": [
            {"predictor": "model", "context": context, **_result(newest.sums[context])}
            for context in sorted(newest.sums, key=context_order)
        ],
        "training": _training(run, newest),
    }


def _comparison(run: StoredRun, before: str | None) -> tuple[Comparison | None, str]:
    if before is None:
        _, comparison = run_before(run)
        if comparison is None:
            return None, "No finished run beside this one was evaluated on the same frames; --before RUN names another."
        return comparison, ONE_SEED
    other = open_stored_run(before)
    comparison = compare(run, other)
    if comparison is None:
        raise UserError(
            f"{run.location} and {other.location} have no evaluation on the same frames; evaluate both with the same "
            "corpus, eval.num_targets and contexts"
        )
    return comparison, ONE_SEED


def _plan(run: StoredRun) -> tuple[list[PlanRow], str]:
    """The card's estimate beside what came."""
    card, end = run.card, last_end(run)
    estimate = {} if card is None or card.estimate is None else card.estimate
    hours, spent = _hours(run), None if end is None else end.get("spent_usd")
    budget = None if card is None else card.limits.budget_usd
    planned_usd = _usd(estimate.get("usd")) + ("" if budget is None else f", at most {_usd(budget)}")
    rows = [
        PlanRow(name="Targets", planned=_count(estimate.get("targets")), actual=f"{run.targets_seen:,}"),
        PlanRow(name="Time", planned=_duration(estimate.get("hours")), actual=_duration(hours)),
        PlanRow(name="Cost", planned=planned_usd, actual=_usd(spent) if spent else NO_VALUE),
    ]
    speeds = [row["targets_per_s"] for row in run.log if row["kind"] == "train" and row.get("targets_per_s")]
    if speeds:
        speed = estimate.get("targets_per_s")
        rows.append(
            PlanRow(name="Targets/s", planned=_count(speed), actual=f"{statistics.median(speeds):,.0f} (median)")
        )
    if card is None:
        return rows, "The run has no card: it was started by hand, so there is no plan."
    if card.estimate is None:
        return rows, f"The card has no estimate{f' ({card.no_estimate})' if card.no_estimate else ''}."
    return rows, "The plan is that of the run card; the cost is that of all machines of the cluster while the job ran."


def _hours(run: StoredRun) -> float | None:
    """From the first start to the end, with what lay between; without a watch, of training alone."""
    times = [time for row in run.watch_events if (time := time_of(row.get("at"))) is not None]
    if times:
        return (times[-1] - times[0]).total_seconds() / 3600
    seconds = [row["seconds"] for row in run.log if row["kind"] == "train" and row.get("seconds") is not None]
    return max(seconds) / 3600 if seconds else None


def _result(sums: GameSums) -> dict[str, Any]:
    slices = {
        dimension: {
            label: {"count": int(part.num_pairs.sum()), "metrics": _metrics(part)} for label, part in labels.items()
        }
        for dimension, labels in sums.slices.items()
    }
    return {"metrics": _metrics(sums), "slices": slices, "confusions": []}


def _metrics(sums: GameSums) -> dict[str, Any]:
    return {metric: _plain(estimate_of(sums, metric)) for metric in METRICS}


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _training(run: StoredRun, judged: Judged) -> Mapping[str, Any]:
    meta = run.meta or {}
    state = "finished" if run.is_finished else "trained" if meta.get("trained") else "training"
    return {"state": state, "targets_seen": judged.targets_seen, "best": meta.get("best") or {}}


def _corpus(run: StoredRun) -> CorpusInfo | None:
    """Counts of the training corpus, where it can be read from here without a download."""
    place = str(run.run.config.train_corpus)
    if is_remote(place):
        return None
    with contextlib.suppress(UserError, OSError):
        corpus = open_corpus(place)
        if corpus.digest == ((run.run.files.read_json(DATA_FILE).get("train") or {}).get("manifest")):
            return corpus_info(corpus)
    return None


def _count(value: Any) -> str:
    return NO_VALUE if value is None else f"{float(value):,.0f}"


def _usd(value: Any) -> str:
    return NO_VALUE if value is None else f"{float(value):,.2f} USD"


def _duration(hours: Any) -> str:
    return NO_VALUE if hours is None else format_duration(float(hours) * 3600)
