"""ASHA as a scheduler of Ray Tune: it asks `tune.running.rungs` and records each decision before it takes effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.config import SweepConfig
from tune.results.rung_record import RungDecision
from tune.running.rungs import Rungs

TIME = "targets_seen"
"""Key of a result."""

OnDecision = Callable[[str, RungDecision], None]


def name_of(tune_trial: Any) -> str:
    """The name of one of Tune's trials in the sweep."""
    return tune_trial.custom_trial_name


def make_scheduler(sweep: SweepConfig, rungs: Rungs, on_decision: OnDecision | None = None) -> TrialScheduler:
    """The scheduler of a command.

    Args:
        on_decision: is told the name of the trial and the decision, after it was recorded.
    """
    return RungScheduler(rungs, on_decision) if sweep.asha.enabled else FIFOScheduler()


class RungScheduler(FIFOScheduler):
    """Stops a trial when the rungs say so, at its next validation.

    Tune's own ASHAScheduler keeps its rungs in memory, and `Tuner.restore` loses them (ray issue 30838).
    """

    def __init__(self, rungs: Rungs, on_decision: OnDecision | None = None) -> None:
        super().__init__()
        self._rungs, self._on_decision = rungs, on_decision

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores what it was given, and no command restores it."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = name_of(trial)
        for other, decision in self._rungs.decide(name, result.get(TIME, 0)).items():
            self._rungs.record(other, decision)
            if self._on_decision is not None:
                self._on_decision(other, decision)
        return TrialScheduler.STOP if name in self._rungs.stopped else TrialScheduler.CONTINUE
