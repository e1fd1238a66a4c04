"""`wm choose-k`: which context length K is enough, with the evidence and the costs. Plain functions, no Ray."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.runtime.errors import UserError
from datasets.runtime.uris import without_credentials
from tune.analysis.choice import ContextChoice, Rule, RuleResult, choose_context
from tune.analysis.learning_curves import LearningCurve
from tune.config import ChoiceConfig
from tune.report.cells import Cell, cells_of
from tune.report.scaling import ScalingReport, scaling_report
from tune.report.slices import SliceReport, compare_slices
from tune.results.evidence import SweepEvidence, load_evidence
from tune.results.play_cost import PlayCosts
from tune.results.sweep_folder import open_sweep
from wm.config.run_config import Context, MetricName
from wm.config.typed_yaml import from_plain, to_plain
from wm.evaluation.metrics import METRICS, context_text
from wm.runs.run_files import open_run_files

RELATIVE_METRICS: tuple[MetricName, ...] = ("pos_mae", "val_loss")
"""Metrics whose threshold is a fraction of the reference's value."""
NUM_REPLICATES = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceReport:
    """The verdict on K and everything that is shown with it."""

    sweep: Path | str
    """Folder or URI."""
    choice: ContextChoice
    cells: tuple[Cell, ...]
    """Every setting at every K, by the metric of the first rule."""
    slices: SliceReport | None
    scaling: ScalingReport
    notes: tuple[str, ...]
    """What weakens the verdict, and what was left out."""
    num_trials: int
    """Compared."""

    @property
    def sweep_name(self) -> str:
        """The last part of the sweep's folder or URI."""
        return without_credentials(str(self.sweep)).rstrip("/").rpartition("/")[2]

    @property
    def rule(self) -> Rule:
        """The main rule."""
        return self.choice.results[0].rule

    @property
    def headline(self) -> str:
        """The verdict in words."""
        if self.choice.verdict == "undecided":
            return "Not decided"
        return f"{_capital(context_text(self.choice.context))} is {self.choice.verdict}"

    @property
    def more_text(self) -> str:
        """What would decide; empty if the sweep does, or if it is unknown."""
        more = self.choice.more
        if more is None:
            return ""
        amounts = (
            (more.games, "more game", " judged"),
            (more.seeds, "more seed", ""),
            (more.targets, "more training target", ""),
        )
        listed = [
            f"about {number:,} {what}{'' if number == 1 else 's'}{after}"
            for number, what, after in amounts
            if number is not None
        ]
        if not listed:
            return "Neither more games nor more seeds would decide alone, if the estimates stayed as they are."
        return f"{_capital(', or '.join(listed))} would decide, if the estimates stayed as they are."

    def cell(self, setting: str, context: Context) -> Cell:
        """One setting at one K."""
        return next(cell for cell in self.cells if (cell.setting, cell.context) == (setting, context))


def choose(path: Path | str, config: ChoiceConfig | None = None) -> ChoiceReport:
    """Choose K from the results of a sweep, which may still run.

    Args:
        path: folder or URI of the sweep.
        config: when a shorter K is good enough; by default as the sweep's file says.
    Raises:
        UserError: the folder is not a sweep, none of its trials has finished, or they cannot be compared.
    """
    manifest = open_sweep(path)
    return report_of(path, load_evidence(manifest), config or manifest.choice, PlayCosts(open_run_files(manifest.out)))


def report_of(path: Path | str, sweep: SweepEvidence, config: ChoiceConfig, play_costs: PlayCosts) -> ChoiceReport:
    """The report on finished trials.

    Raises:
        UserError: they cannot be compared.
    """
    reference = None if config.reference == "best" else config.reference
    decide = partial(
        choose_context, sweep.evidence, rules_of(config), reference=reference, num_replicates=NUM_REPLICATES
    )
    choice = decide()
    if choice.verdict == "undecided":
        choice = decide(curves=learning_curves(sweep, choice.results[0]))
    cells = cells_of(sweep, play_costs, choice.results[0].rule.metric, choice.confidence)
    return ChoiceReport(
        sweep=path,
        choice=choice,
        cells=tuple(cells),
        slices=compare_slices(sweep, choice, NUM_REPLICATES),
        scaling=scaling_report(sweep),
        notes=_notes(sweep, choice),
        num_trials=len(sweep.trials),
    )


def learning_curves(sweep: SweepEvidence, result: RuleResult) -> dict[Context, LearningCurve]:
    """The metric in the validations of the best setting at each K, a mean over its seeds."""
    curves = {}
    for row in result.rows:
        own = [trial for trial in sweep.trials if trial.evidence.setting == row.setting]
        values: dict[int, list[float]] = defaultdict(list)
        for validation in (validation for trial in own for validation in trial.validations):
            value = validation.get(result.rule.metric)
            if validation["context"] == row.context and value is not None:
                values[validation["targets_seen"]].append(value)
        # A mean of other seeds at every point would show the differences of seeds as a trend.
        complete = {targets: found for targets, found in sorted(values.items()) if len(found) == row.num_seeds}
        if complete:
            curves[row.context] = LearningCurve(
                targets=np.array(list(complete)),
                values=np.array([statistics.mean(found) for found in complete.values()]),
            )
    return curves


def rules_of(config: ChoiceConfig) -> tuple[Rule, ...]:
    """The rules of a choice, the main one first."""
    thresholds = {config.metric: config.threshold, **config.also}
    return tuple(
        Rule(metric=metric, threshold=threshold, relative=metric in RELATIVE_METRICS)
        for metric, threshold in thresholds.items()
    )


def with_options(
    config: ChoiceConfig,
    *,
    metric: MetricName | None = None,
    threshold: float | None = None,
    reference: str | None = None,
    also: Sequence[str] = (),
) -> ChoiceConfig:
    """A choice with the options of the command line.

    Args:
        also: `METRIC=AMOUNT`, the amount as a number or with %; replaces those of the config.
    Raises:
        UserError: an impossible value.
    """
    changes: dict[str, Any] = {"metric": metric, "threshold": threshold, "also": dict(map(_also, also)) or None}
    if reference is not None:
        changes["reference"] = int(reference) if reference.isdecimal() else reference
    changes = {name: value for name, value in changes.items() if value is not None}
    if metric is not None and "also" not in changes:
        changes["also"] = {name: amount for name, amount in config.also.items() if name != metric}
    return from_plain(to_plain(config) | changes, ChoiceConfig, "options of the choice")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _also(text: str) -> tuple[str, float]:
    """`pos_mae=3%` -> metric and amount."""
    metric, _, amount = text.partition("=")
    try:
        value = float(amount.removesuffix("%")) / (100 if amount.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if metric not in METRICS or not 0 < value < 1:
        raise UserError(
            f"--also: found {text!r}, expected a metric ({', '.join(METRICS)}) and its largest loss, as in pos_mae=3%"
        )
    return metric, value


def _notes(sweep: SweepEvidence, choice: ContextChoice) -> tuple[str, ...]:
    notes = list(choice.remarks)
    if sweep.left_out:
        listed = "; ".join(f"{number} x {reason}" for reason, number in Counter(sweep.left_out.values()).most_common(5))
        total = len(sweep.left_out) + len(sweep.trials)
        notes.append(f"{len(sweep.left_out)} of {total} trials are left out: {listed}")
    return tuple(notes)
