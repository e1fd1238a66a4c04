"""What follows from the events of Ray Tune: the live table, the experiment's files, failures, new trials."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback

from tune.config import SweepConfig
from tune.results.rung_record import RungDecision
from tune.results.sweep_folder import SweepManifest, for_each, write_manifest
from tune.results.trial_status import ENDED, TrialStatus, mark_failed, run_of, status_of
from tune.running.asha import TIME, name_of
from tune.running.experiment import Experiment
from tune.running.live_table import LiveTable
from tune.running.rungs import Rungs
from tune.running.trial_process import failure_of_death
from tune.search.cost import Cost, cost_of
from tune.search.suggest import Outcome, Setting
from tune.search.trials import Trial, axes_text
from wm.runs.run_files import RunFiles


class Observer(TrialProgressCallback):
    """Keeps what is displayed and written up to date, and records which trials failed.

    It takes the place of Tune's own callback of this type, which prints although `verbose` is 0.
    """

    def __init__(
        self, sweep: SweepConfig, files: RunFiles, trials: Sequence[Trial], costs: Sequence[Cost],
        manifest: SweepManifest, rungs: Rungs, table: LiveTable, command: str,
    ) -> None:  # fmt: skip
        """
        Args:
            files: of the sweep; its folder is open.
        """
        self._sweep, self._rungs, self._table, self._command = sweep, rungs, table, command
        self._experiment = Experiment(manifest, files)
        self._trials: dict[str, Trial] = {}
        self._costs: dict[str, Cost] = {}
        states = for_each(self._status, trials, sweep.out)
        for trial, cost, status in zip(trials, costs, states, strict=True):
            self._show(trial, cost, status)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores what it was given, and no command restores it."""
        return {}

    def add(self, trials: Sequence[Trial]) -> None:
        """Record trials that a search suggested, before any of them starts."""
        for trial in trials:
            cost = cost_of(trial.config)
            self._show(trial, cost, self._status(trial))
            self._rungs.add_trial(trial, cost.train_flops_per_target)
        manifest = write_manifest(self._sweep, list(self._trials.values()), list(self._costs.values()))
        self._experiment.add_trials(manifest)

    def outcome_of(self, setting: Setting, trials: Sequence[Trial]) -> Outcome:
        """What is known of a setting, for a search."""
        states = {self._status(trial).state for trial in trials}
        if not states <= set(ENDED):
            return Outcome(setting=setting, state="running")
        ends = {trial.name: run_of(trial.config).evaluations.targets_seen()[-1:] for trial in trials}
        found = [self._rungs.best(name, seen[0]) for name, seen in ends.items() if seen]
        scores = [best[1] for best in found if best is not None]
        state = "stopped" if "stopped" in states else "finished" if "finished" in states else "failed"
        return Outcome(
            setting=setting,
            state=state,
            score=statistics.mean(scores) if scores else None,
            time=float(max((seen[0] for seen in ends.values() if seen), default=0)),
        )

    def on_decision(self, name: str, decision: RungDecision) -> None:
        """Print what a rung decided."""
        self._table.say(f"{axes_text(self._trials[name].axes)}: {decision.reason}")

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._table.set_state(name_of(trial), "running")

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        name = name_of(trial)
        if (best := self._rungs.best(name, result.get(TIME, 0))) is not None:
            self._table.set_evaluation(name, result[TIME], best[0], best[2])
        self._experiment.update(name)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        name = name_of(trial)
        status = self._status(self._trials[name])
        reason = "" if status.state == "stopped" else status.reason  # `on_decision` has printed it
        self._table.set_state(name, status.state, reason)
        self._experiment.update(name)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._table.say(f"{axes_text(self._trials[name_of(trial)].axes)}: its process died; it starts again")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune has given the trial up; called once for each."""
        run = run_of(self._trials[name_of(trial)].config)
        mark_failed(run.files, failure_of_death(run, self._command, trial.get_error()))
        self.on_trial_complete(iteration, trials, trial)

    @staticmethod
    def _status(trial: Trial) -> TrialStatus:
        return status_of(run_of(trial.config))

    def _show(self, trial: Trial, cost: Cost, status: TrialStatus) -> None:
        self._trials[trial.name], self._costs[trial.name] = trial, cost
        self._table.add(trial, cost.train_flops_per_target, status.state, status.targets_seen)
