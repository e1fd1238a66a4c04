"""ASHA as a scheduler of Ray Tune: it asks `tune.running.rungs` and records each decision before it takes effect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tune.config import AshaConfig, SweepConfig
from tune.results.rung_record import RungDecision
from tune.running.rungs import Rungs, record

TIME = "targets_seen"
SCORE = "score"
SETUP = "trial"

OnDecision = Callable[[str, RungDecision], None]


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


def make_scheduler(sweep: SweepConfig, rungs: Rungs, on_decision: OnDecision | None = None) -> TrialScheduler:
    """The scheduler of a command.

    Args:
        on_decision: is told the name of the trial and the decision, after it was recorded.
    """
    return RungScheduler(sweep, rungs, on_decision) if sweep.asha.enabled else FIFOScheduler()


class RungScheduler(FIFOScheduler):
    """Stops a trial when the rungs say so, at its next validation.

    Tune's own ASHAScheduler keeps its rungs in memory, and `Tuner.restore` loses them (ray issue 30838).
    """

    def __init__(self, sweep: SweepConfig, rungs: Rungs, on_decision: OnDecision | None = None) -> None:
        super().__init__()
        self._folder, self._rungs, self._on_decision = sweep.out / "trials", rungs, on_decision

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = setup_of(trial)["name"]
        for other, decision in self._rungs.decide(name, result.get(TIME, 0)).items():
            record(self._folder / other, decision)
            if self._on_decision is not None:
                self._on_decision(other, decision)
        return TrialScheduler.STOP if name in self._rungs.stopped else TrialScheduler.CONTINUE
