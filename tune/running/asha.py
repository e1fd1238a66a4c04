"""ASHA for a sweep that resumes: it takes the results of earlier commands into account."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tune.config import AshaConfig, SweepConfig
from tune.results.rung_record import RungDecision, record_decision
from tune.results.sweep_folder import SweepManifest, rows_of
from tune.search.trials import Trial

TIME = "targets_seen"
SCORE = "score"
SETUP = "trial"


def setup_of(tune_trial: Any) -> dict[str, Any]:
    """The parameters of one of Tune's trials (see `tune.running.trial_process.trial_setup`)."""
    return tune_trial.config[SETUP]


def score_of(asha: AshaConfig, rows: Sequence[dict[str, Any]]) -> float:
    """The score of one validation from its rows; nan, which never stops a trial, if the metric has no value."""
    chosen = [row for row in rows if asha.context is None or row["context"] == asha.context]
    values = [row[asha.metric] for row in chosen if row[asha.metric] is not None]
    if not values:
        return float("nan")
    return max(values) if asha.higher_is_better else min(values)


def make_scheduler(
    sweep: SweepConfig, manifest: SweepManifest, trials: Sequence[Trial], remaining: Sequence[Trial]
) -> TrialScheduler:
    """The scheduler of a command that runs the remaining trials of a sweep."""
    if not sweep.asha.enabled:
        return FIFOScheduler()
    history = {trial.name: past_results(sweep.asha, manifest, trial.name) for trial in trials}
    scheduler = ResumableAsha(sweep, history)
    to_run = {trial.name for trial in remaining}
    scheduler.add_ended([trial.name for trial in trials if trial.name not in to_run])
    return scheduler


def past_results(asha: AshaConfig, manifest: SweepManifest, trial: str) -> list[dict[str, Any]]:
    """The results that a trial has in its log, one for each validation, in order."""
    validations: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(manifest, trial):
        values = {"context": row.context, asha.metric: getattr(row, asha.metric)}
        validations.setdefault(row.targets_seen, []).append(values)
    return [{TIME: targets_seen, SCORE: score_of(asha, rows)} for targets_seen, rows in validations.items()]


class ResumableAsha(ASHAScheduler):
    """ASHA whose rungs contain the results of earlier commands, and which records the trials that it stops."""

    def __init__(self, sweep: SweepConfig, history: dict[str, list[dict[str, Any]]]) -> None:
        """
        Args:
            history: name of a trial -> its results so far, in order.
        """
        super().__init__(
            time_attr=TIME,
            metric=SCORE,
            mode="max" if sweep.asha.higher_is_better else "min",
            max_t=sweep.base.optimizer.total_targets,
            grace_period=int(sweep.asha.grace),
            reduction_factor=sweep.asha.reduction_factor,
            stop_last_trials=False,
        )
        self._history = dict(history)

    def add_ended(self, names: Sequence[str]) -> None:
        """Add the results of trials that do not run again to the rungs."""
        for name in names:
            self.on_trial_add(None, SimpleNamespace(trial_id=name, config={SETUP: {"name": name}}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for result in self._history.pop(setup_of(trial)["name"], ()):
            # The earlier command has decided on this result already, so its answer is ignored.
            super().on_trial_result(tune_controller, trial, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            out = Path(setup_of(trial)["run"]["out"])
            record_decision(out, RungDecision(targets_seen=result[TIME], rung=None, score=result[SCORE], stops=True))
        return decision
