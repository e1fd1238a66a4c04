"""The call of Ray Tune: which trials it gets, how it is stopped, what it may not do itself."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler

from tune.config import SweepConfig
from tune.results.sweep_folder import for_each
from tune.results.trial_status import ENDED, run_of, status_of
from tune.running.asha import make_scheduler
from tune.running.live_table import LiveTable
from tune.running.observer import Observer
from tune.running.resources import WaitingNotice, start_ray_for, trial_resources
from tune.running.rungs import Rungs
from tune.running.spending import Spending
from tune.running.stopping import StopWhenSaved, call_in_thread, withdraw_request
from tune.running.trial_process import command_setup, run_trial
from tune.running.tune_search import SweepSearch
from tune.search.source import TrialSource
from tune.search.trials import Trial, trial_of
from wm.launch.shared_storage import tokens
from wm.runs.run_files import RunFiles
from wm.runs.stop_request import StopRequest

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # `Experiment` writes what they would, for all commands
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # a request in the sweep's folder stops the trials
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial whose loss is not finite has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # the live table displays instead of Tune
}


def run_tuner(
    sweep: SweepConfig, files: RunFiles, source: TrialSource, num_left: int, rungs: Rungs, observer: Observer,
    table: LiveTable, spending: Spending, callbacks: list[Callback], command: str,
) -> tuple[int | None, str | None]:  # fmt: skip
    """Run the trials of a source under Ray Tune until the source, a budget or a signal ends it.

    Args:
        files: of the sweep.
        num_left: trials that have not ended.
    Returns:
        The signal and the budget that ended it.
    Raises:
        UserError: Ray has no room for a trial, and never will have.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    for_each(lambda trial: withdraw_request(run_of(trial.config)), source.trials, sweep.out)
    request = StopRequest(files)
    budget: list[str] = []

    def is_due(trial: Trial) -> bool:
        return status_of(run_of(trial.config)).state not in ENDED

    def poll() -> None:
        notice.update(lambda: bool(table.running()))
        table.tick()
        if not budget and (reason := spending.used_up(table.train_flops)) is not None:
            budget.append(reason)
            table.say(f"{reason.partition(';')[0]}; the running trials save and end")
            request.request()

    with (
        request.on_signals(),
        request.watched(),
        tokens(replace(sweep.base, out=sweep.out), command),
        tempfile.TemporaryDirectory(prefix="wm-tune-", ignore_cleanup_errors=True) as scratch,
    ):
        concurrent = min(sweep.max_concurrent, num_left)
        start_ray_for(sweep, concurrent)
        search = SweepSearch(source, request.is_set_for_run, is_due, observer.add)
        scheduler = make_scheduler(sweep, rungs, observer.on_decision)
        setup = command_setup(sweep, concurrent, command)
        # Nothing that Tune stores is read: not worth requests to a bucket, and an outage must not reach it.
        storage = sweep.out / "ray" if isinstance(sweep.out, Path) else Path(scratch)
        stop = StopWhenSaved(request, table.running)
        tuner = _tuner(sweep, search, scheduler, [observer, *callbacks], setup, storage, stop)
        notice = WaitingNotice(sweep)
        call_in_thread(tuner.fit, poll)
    return request.signal, budget[0] if budget else None


def _tuner(
    sweep: SweepConfig, search: SweepSearch, scheduler: TrialScheduler, callbacks: list[Callback],
    setup: dict[str, Any], storage: Path, stop: StopWhenSaved,
) -> ray_tune.Tuner:  # fmt: skip
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
            storage_path=str(storage),
            verbose=0,
            stop=stop,
            failure_config=ray_tune.FailureConfig(max_failures=sweep.base.max_failures),
            callbacks=callbacks,
        ),
    )
