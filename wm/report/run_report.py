"""The report of a training run: a page for a reader who has not seen the project before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from datasets.corpus.info import CorpusInfo
from datasets.runtime.text_format import format_duration
from datasets.schema.reject_reasons import REJECT_REASONS
from wm.checkpoints.retention import best_text
from wm.evaluation.metrics import context_text
from wm.report.dreams import dream_report
from wm.report.morning import Morning
from wm.report.numbers import finite, format_count
from wm.report.page import render_page, write_page
from wm.report.results import (
    HEADLINE_METRICS,
    METRICS,
    MetricInfo,
    Result,
    best,
    best_baseline,
    headline_model,
    read_results,
)
from wm.report.run_charts import (
    breakdown_charts,
    context_charts,
    corpus_charts,
    headline_chart,
    learning_charts,
)
from wm.runs.environment import command_line
from wm.runs.run import CONFIG_FILE, ENVIRONMENT_FILE
from wm.runs.run_files import RunFiles, open_run_files
from wm.runs.run_log import LOG_FILE, parse_log

FRAMES_PER_HOUR = 60 * 3600

Facts = list[tuple[str, str]]
"""Names and values, as text."""


def write_report(
    path: Path, run: Path | str, *, title: str, evaluation: Mapping[str, Any], corpus: CorpusInfo | None
) -> Path:
    """Write the report of the run in a folder or at a URI, and return its path.

    Args:
        path: of the HTML file.
        run: the run's folder or URI; its log, environment and config are read as far as they exist.
        title, evaluation, corpus: see `render_report`.
    """
    files = open_run_files(run)
    page = render_report(
        title=title,
        log_rows=parse_log(_read_text(files, LOG_FILE)),
        evaluation=evaluation,
        corpus=corpus,
        environment=files.read_json(ENVIRONMENT_FILE),
        config=_read_text(files, CONFIG_FILE),
    )
    return write_page(path, page)


def render_report(
    *,
    title: str,
    log_rows: Sequence[dict[str, Any]],
    evaluation: Mapping[str, Any],
    corpus: CorpusInfo | None,
    environment: Mapping[str, Any] | None = None,
    config: str = "",
    morning: Morning | None = None,
) -> str:
    """The page as text. Any of the inputs may be empty (the corpus None); the page then says what is missing.

    Args:
        title: name of the run.
        log_rows: rows of the run's log, in order; those of kind "train" and "eval" are used.
        evaluation: JSON data of `wm eval`: `results` of the model by context, and of the baselines.
        corpus: counts over the corpus that the run was trained on.
        environment: JSON data of the run's environment.json: commands, code, software, machine.
        config: the run's config as YAML.
        morning: what happened in the night, costs, and the run before; None leaves these sections out.
    """
    results, environment = read_results(evaluation), environment or {}
    model = headline_model(results)
    return render_page(
        "run.html",
        title=title,
        evaluation=evaluation,
        results=results,
        model=model,
        metrics=METRICS,
        headline_metrics=HEADLINE_METRICS,
        context_text=context_text,
        best=best,
        tiles=[_tile(metric, model, results) for metric in HEADLINE_METRICS] if model else [],
        training_facts=_training_facts(
            [row for row in log_rows if row.get("kind") == "train"], evaluation.get("training") or {}
        ),
        learning_charts=learning_charts(log_rows, results),
        has_validation=any(row.get("kind") == "eval" for row in log_rows),
        context_charts=context_charts(results),
        dreams=dream_report(evaluation.get("coherence")),
        breakdown=breakdown_charts(model, results) if model else {},
        corpus=corpus,
        corpus_facts=_corpus_facts(corpus) if corpus else [],
        corpus_charts=corpus_charts(corpus) if corpus else [],
        reject_reasons=REJECT_REASONS,
        commands=_commands(evaluation, results, environment),
        environment_facts=_environment_facts(environment),
        config=config,
        morning=morning,
    )


def _read_text(files: RunFiles, name: str) -> str:
    """A file of a run; empty if it does not exist."""
    try:
        return files.read(name).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _tile(metric: MetricInfo, model: Result, results: Sequence[Result]) -> dict[str, Any]:
    """A headline metric, the verdict beside the best baseline, and the verdict's CSS class."""
    verdict, css_class = _verdict(metric, model, best_baseline(results, metric))
    return {
        "metric": metric,
        "estimate": model.estimate(metric.key),
        "verdict": verdict,
        "css_class": css_class,
        "chart": headline_chart(metric, model, results),
    }


def _verdict(metric: MetricInfo, model: Result, baseline: Result | None) -> tuple[str, str]:
    """Better, worse or unclear, in words and with a sign, so that color is not needed."""
    if baseline is None:
        return "No baseline has this metric.", "unclear"
    mine, other = model.estimate(metric.key), baseline.estimate(metric.key)
    versus = f"“{baseline.name}” ({metric.axis.format(other.value)})"
    if mine.value is None or other.value is None:
        return f"– no value for the model; best baseline: {versus}", "unclear"
    if mine.interval is None or other.interval is None:
        return f"– too few games to compare with {versus}", "unclear"
    if mine.overlaps(other) or mine.value == other.value:
        return f"≈ no clear difference from {versus}", "unclear"
    is_better = metric.is_better(mine.value, other.value)
    return (f"✓ better than {versus}", "good") if is_better else (f"✗ worse than {versus}", "bad")


def _training_facts(train: Sequence[dict[str, Any]], checkpoint: Mapping[str, Any]) -> Facts:
    """
    Args:
        checkpoint: `training` of the evaluation: state of the run and best validation at the evaluated checkpoint.
    """
    facts = [("Targets seen", format_count(row.get("targets_seen"))) for row in train[-1:]]
    seconds, speeds = (
        [value for row in train if (value := finite(row.get(key))) is not None] for key in ("seconds", "targets_per_s")
    )
    if seconds:
        facts.append(("Training time", format_duration(max(seconds))))
    if speeds:
        facts.append(("Median speed", f"{format_count(statistics.median(speeds))} targets/s"))
    if checkpoint:
        facts.append(
            ("Evaluated checkpoint", f"{format_count(checkpoint['targets_seen'])} targets, {checkpoint['state']}")
        )
    if best := best_text(checkpoint.get("best") or {}):
        facts.append(("Best validation", best))
    return facts


def _corpus_facts(corpus: CorpusInfo) -> Facts:
    return [
        ("Games", format_count(corpus.num_games)),
        ("Frames", format_count(corpus.num_frames)),
        ("Play time", f"{corpus.num_frames / FRAMES_PER_HOUR:,.1f} h"),
        ("Bytes per frame", f"{corpus.bytes_per_frame:.1f}"),
        ("Size on disk", _format_bytes(corpus.num_frames * corpus.bytes_per_frame)),
    ]


def _commands(evaluation: Mapping[str, Any], results: Sequence[Result], environment: Mapping[str, Any]) -> list[str]:
    """The run's commands without repetitions, and the evaluation; no home folder and no credentials."""
    commands = list(dict.fromkeys(str(entry.get("command")) for entry in environment.get("commands") or []))
    if evaluation.get("checkpoint") and evaluation.get("corpus"):
        words = ["wm", "eval", evaluation["checkpoint"], evaluation["corpus"]]
        words += ["--split", evaluation.get("split", "validation"), "--num-targets", evaluation.get("num_targets")]
        words += ["--context", *(result.context for result in results if result.is_model)]
        commands.append(command_line([str(word) for word in words]))
    return commands


def _environment_facts(environment: Mapping[str, Any]) -> Facts:
    code, software, machine = (environment.get(key) or {} for key in ("code", "software", "machine"))
    facts = []
    if revision := code.get("git_revision") or code.get("version"):
        facts.append(("Code", f"{str(revision)[:12]}{' with local changes' if code.get('dirty') else ''}"))
    facts += [(name.capitalize(), str(software[name])) for name in ("python", "torch", "ray") if software.get(name)]
    if machine:
        gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or []]
        facts.append(("Processor", f"{machine.get('cpu')}, {machine.get('cores')} cores"))
        facts.append(("Memory", _format_bytes(finite(machine.get("memory_bytes")) or 0.0)))
        facts.append(("GPUs", f"{len(gpus)} x {gpus[0]}" if gpus else "none"))
    return facts


def _format_bytes(num_bytes: float) -> str:
    return ByteSize(num_bytes).human_readable(decimal=True, separator=" ")
