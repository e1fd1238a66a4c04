"""The call of Ray Tune: which trials it gets, how it is stopped, what it may not do itself."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Any

from ray import tune as ray_tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler

from tune.config import SweepConfig
from tune.results.trial_status import ENDED, status_of
from tune.running.asha import make_scheduler
from tune.running.live_table import LiveTable
from tune.running.observer import Observer
from tune.running.resources import WaitingNotice, start_ray_for, trial_resources
from tune.running.rungs import Rungs
from tune.running.spending import Spending
from tune.running.stopping import StopWhenSaved, call_in_thread, running_trials, stop_request_of, withdraw_requests
from tune.running.trial_process import command_setup, run_trial
from tune.running.tune_search import SweepSearch
from tune.search.source import TrialSource
from tune.search.trials import Trial, trial_of
from wm.launch.shared_storage import tokens
from wm.runs.run import Run

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # `Experiment` writes what they would, for all commands
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # a request in the sweep's folder stops the trials
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial whose loss is not finite has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # the live table displays instead of Tune
}


def run_tuner(
    sweep: SweepConfig, source: TrialSource, num_left: int, rungs: Rungs, observer: Observer, table: LiveTable,
    spending: Spending, callbacks: list[Callback], command: str,
) -> tuple[int | None, str | None]:  # fmt: skip
    """Run the trials of a source under Ray Tune until the source, a budget or a signal ends it.

    Args:
        num_left: trials that have not ended.
    Returns:
        The signal and the budget that ended it.
    Raises:
        UserError: Ray has no room for a trial, and never will have.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    withdraw_requests(sweep.out)
    request = stop_request_of(sweep.out)
    budget: list[str] = []

    def is_due(trial: Trial) -> bool:
        return not request.is_set_for_run() and status_of(Run(trial.config)).state not in ENDED

    def poll() -> None:
        notice.update(lambda: bool(running_trials(sweep.out)))
        table.tick()
        if not budget and (reason := spending.used_up(table.train_flops)) is not None:
            budget.append(reason)
            table.say(f"{reason.partition(';')[0]}; the running trials save and end")
            request.request()

    with request.on_signals(), tokens(replace(sweep.base, out=sweep.out), command):
        concurrent = min(sweep.max_concurrent, num_left)
        start_ray_for(sweep, concurrent)
        search = SweepSearch(source, is_due, observer.add)
        scheduler = make_scheduler(sweep, rungs, observer.on_decision)
        tuner = _tuner(sweep, search, scheduler, [observer, *callbacks], command_setup(sweep, concurrent, command))
        notice = WaitingNotice(sweep)
        call_in_thread(tuner.fit, poll)
    return request.signal, budget[0] if budget else None


def _tuner(
    sweep: SweepConfig, search: SweepSearch, scheduler: TrialScheduler, callbacks: list[Callback], setup: dict[str, Any]
) -> ray_tune.Tuner:
    train = ray_tune.with_parameters(run_trial, setup=setup)
    return ray_tune.Tuner(
        ray_tune.with_resources(train, trial_resources(sweep)),
        tune_config=ray_tune.TuneConfig(
            search_alg=search,
            num_samples=-1,  # until the search ends
            scheduler=scheduler,
            max_concurrent_trials=setup["concurrent"],
            reuse_actors=False,  # a new process for each trial: a stopped one may hold GPU memory
            trial_name_creator=lambda trial: trial_of(sweep, trial.config).name,
            trial_dirname_creator=lambda trial: trial_of(sweep, trial.config).name,
        ),
        run_config=ray_tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{setup['command'][:4]}",
            storage_path=str(sweep.out / "ray"),
            verbose=0,
            stop=StopWhenSaved(sweep.out),
            failure_config=ray_tune.FailureConfig(max_failures=sweep.base.max_failures),
            callbacks=callbacks,
        ),
    )
