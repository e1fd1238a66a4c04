"""What to do next: rules over what is known, in one or two honest sentences."""

from __future__ import annotations

import statistics

from cluster.report.comparison import improvement, tone_of
from cluster.report.stored_run import Row, StoredRun
from datasets.runtime.text_format import format_duration
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import context_text
from wm.report.morning import ComparedMetric, Comparison, Tone

SAME_COMMAND = "the same command goes on from the newest checkpoint"
LARGE_GAIN = 0.1
"""A gain of this part of a metric would matter: an interval that holds it leaves the question open."""
LATE = 0.75
"""The gain of the end of a run is measured from this part of it on."""


def status_of(run: StoredRun) -> tuple[str, Tone]:
    """How the run ended, or that it has not, in one sentence."""
    total, seen = run.run.config.optimizer.total_targets, run.targets_seen
    part = f"{seen:,} of {total:,} targets ({seen / total:.0%})"
    end = last_end(run)
    if run.is_finished:
        return f"Finished: trained on {seen:,} targets, and evaluated.", "good"
    if end is not None:
        reason = str(end.get("message", "")).rstrip(".")
        tone: Tone = "bad" if end.get("status") in ("failed", "killed") else "unclear"
        return f"Ended early at {part}. {reason[:1].upper()}{reason[1:]}.", tone
    if run.meta is not None and run.meta.get("trained"):
        return f"Trained on {seen:,} targets; the final evaluation is missing.", "unclear"
    return f"Not finished: {part} so far.", "unclear"


def next_step(run: StoredRun, comparison: Comparison | None) -> str:
    """What to do next."""
    if not run.is_finished:
        return _of_unfinished(run)
    gain = late_gain(run)
    if comparison is not None and comparison.rows:
        first = _main_row(run, comparison)
        name = f"{first.metric.key} at {first.context_text}"
        if first.tone == "bad":
            return (
                f"Do not replace {comparison.before} by this run: its {name} is worse, by more than chance over "
                f"games explains. {gain}"
            )
        if first.tone == "unclear":
            return (
                f"The two runs do not differ clearly in {name}: what changed between them is not visible on these "
                f"games, and one seed each says nothing about seeds. {gain}"
            )
        return (
            f"This run replaces {comparison.before}: {name} is better. Repeat it with another seed to be sure. {gain}"
        )
    return gain


def late_gain(run: StoredRun) -> str:
    """Whether the run still improved at its end, and what follows."""
    sums = _late_validations(run)
    metric = run.run.config.eval.best_metric
    if sums is None:
        return "Whether it still improved at its end is unknown: it has no two validations on the same frames."
    earlier, later, at = sums
    difference = improvement(earlier, later, metric)
    if difference is None:
        return "Whether it still improved at its end is unknown: it has no two validations on the same frames."
    shown = f"{difference.difference:+.3g} [{difference.low:+.2g}, {difference.high:+.2g}] in {metric}"
    if tone_of(difference) == "good":
        return f"It still improved from {at:,} targets on ({shown}): a longer schedule (init_from) should gain more."
    if tone_of(difference) == "bad":
        return f"It became worse from {at:,} targets on ({shown}): use RUN/best, and look at the learning rate."
    if difference.high > max(LARGE_GAIN * abs(difference.value_a), LARGE_GAIN / 10):
        return (
            f"Whether it still improved from {at:,} targets on cannot be told from so few judged frames ({shown}): a "
            "larger eval.validation_targets would tell."
        )
    return (
        f"From {at:,} targets on there was no clear gain ({shown}): more games or a larger model are the next thing to "
        "try, not a longer run."
    )


def last_end(run: StoredRun) -> Row | None:
    """The watch's last word, if the watch has not begun again since."""
    rows = [row for row in run.watch_events if row.get("kind") in ("start", "end")]
    return rows[-1] if rows and rows[-1]["kind"] == "end" else None


def _of_unfinished(run: StoredRun) -> str:
    end = last_end(run)
    status = None if end is None else end.get("status")
    if status == "killed":
        return "Change what made it miss its threshold before it runs again; compare its curves with the run before."
    if status == "failed":
        return "Read the last lines of the log, crash.txt of the run and the stacks of the job; then run it again."
    speeds = [row["targets_per_s"] for row in run.log if row["kind"] == "train" and row.get("targets_per_s")]
    left = max(0, run.run.config.optimizer.total_targets - run.targets_seen)
    if not speeds:
        return f"It has made no progress yet; {SAME_COMMAND}."
    duration = format_duration(left / statistics.median(speeds))
    if status in ("budget", "deadline", "stopped"):
        return f"Run it again with a later limit: {SAME_COMMAND}, about {duration} of training are left."
    return f"If it does not run any more, {SAME_COMMAND}: about {duration} of training are left."


def _main_row(run: StoredRun, comparison: Comparison) -> ComparedMetric:
    """The criterion of the run's best checkpoint, where both were evaluated by it."""
    config, rows = run.run.config, comparison.rows
    wanted = (config.eval.best_metric, context_text(config.best_context))
    by_metric = [row for row in rows if row.metric.key == config.eval.best_metric]
    return next((row for row in rows if (row.metric.key, row.context_text) == wanted), (by_metric or rows)[0])


def _late_validations(run: StoredRun) -> tuple[GameSums, GameSums, int] | None:
    """The validation at LATE of the run, the last one on the same frames, and the targets of the first."""
    evaluations, config = run.run.evaluations, run.run.config
    seen = evaluations.targets_seen()
    if run.is_finished and len(seen) > 1:
        seen = seen[:-1]  # the final evaluation has more frames
    if len(seen) < 2:
        return None
    at = min(seen[:-1], key=lambda targets: abs(targets - LATE * seen[-1]))
    earlier, later = evaluations.read(at), evaluations.read(seen[-1])
    contexts = [] if earlier is None or later is None else [c for c in earlier if c in later]
    if earlier is None or later is None or not contexts:
        return None
    context = config.best_context if config.best_context in contexts else contexts[0]
    return earlier[context], later[context], at
