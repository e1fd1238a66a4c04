"""`wm sweep`: trials of the training function under Ray Tune; ASHA stops the weak ones early.

The trials' folders hold the state: their logs contain the results, their checkpoints resume them. Ray Tune's
experiment state is written and never read, because `Tuner.restore` loses ASHA's rungs (ray issue 30838). When the
command runs again, it starts a new Tuner for the trials that have not ended, and ASHA gets the results of all of them.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import uses_cluster
from tune.config import SweepConfig
from tune.report.choice_text import choice_or_reason
from tune.report.table import number_text, trials_table
from tune.results.rung_record import RungDecision
from tune.results.sweep_folder import SweepManifest, check_folder, collect_results, lock_sweep, write_manifest
from tune.results.trial_status import ENDED, TrialStatus, forget_failure, mark_failed, status_of
from tune.running.asha import SCORE, SETUP, TIME, make_scheduler, setup_of
from tune.running.resources import (
    WaitingNotice,
    refuse_relative_paths,
    start_ray_for,
    trial_resources,
    with_workers,
)
from tune.running.rungs import Rungs, open_rungs
from tune.running.stopping import StopWhenSaved, call_in_thread, running_trials, stop_request_of, withdraw_requests
from tune.running.trial_process import failure_of_death, run_trial, trial_setup
from tune.search.cost import cost_of
from tune.search.trials import Trial, axes_text, trials_of, with_absolute_paths
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.launch.shared_storage import tokens
from wm.runs.run import Run
from wm.runs.stop_request import RunStoppedError, StopRequest

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial writes its own log and TensorBoard events
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # a request in the sweep's folder stops the trials
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial whose loss is not finite has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # _Progress prints instead of Tune
}


def run_sweep(sweep: SweepConfig, *, retry_failed: bool = False) -> None:
    """Run, or resume, a sweep; print its results and the recommended K.

    Args:
        retry_failed: run trials again that failed before.
    Raises:
        UserError: the sweep cannot start as configured, or no trial has finished.
        RunStoppedError: SIGTERM or Ctrl-C stopped it, and the running trials have saved.
    """
    if uses_cluster():
        refuse_relative_paths(sweep)
    sweep = with_workers(with_absolute_paths(sweep))
    trials = trials_of(sweep)
    open_data(max((trial.config for trial in trials), key=lambda config: config.objective.example_frames))
    with lock_sweep(sweep.out):
        check_folder(sweep)
        if retry_failed:
            for trial in trials:
                forget_failure(Path(trial.config.out))
        manifest = write_manifest(sweep, trials, [cost_of(trial.config) for trial in trials])
        _run(sweep, trials)
        rows = collect_results(manifest)
    print(f"\n{trials_table(manifest, rows)}\n", flush=True)
    _report_end(manifest)
    print(choice_or_reason(sweep.out), flush=True)


def _run(sweep: SweepConfig, trials: list[Trial]) -> None:
    """Run the trials that have not ended.

    Raises:
        RunStoppedError: a signal stopped the sweep.
    """
    rungs = open_rungs(sweep, trials)
    remaining = [trial for trial in trials if status_of(Run(trial.config)).state not in ENDED]
    print(f"{len(trials)} trials in {sweep.out}; {len(trials) - len(remaining)} of them ended before", flush=True)
    if not remaining:
        return
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    command = uuid.uuid4().hex
    withdraw_requests(sweep.out)
    request = stop_request_of(sweep.out)
    with request.on_signals(), tokens(replace(sweep.base, out=sweep.out), command):
        start_ray_for(sweep, min(sweep.max_concurrent, len(remaining)))
        tuner = _tuner(sweep, rungs, trials, remaining, command)
        notice = WaitingNotice(sweep)
        call_in_thread(tuner.fit, lambda: notice.update(lambda: bool(running_trials(sweep.out))))
    if request.signal is not None:
        _raise_stopped(request.signal, remaining)


def _tuner(
    sweep: SweepConfig, rungs: Rungs, trials: list[Trial], remaining: list[Trial], command: str
) -> ray_tune.Tuner:
    concurrent = min(sweep.max_concurrent, len(remaining))
    progress = _Progress(len(trials), len(trials) - len(remaining), sweep.base.optimizer.total_targets)
    return ray_tune.Tuner(
        ray_tune.with_resources(run_trial, trial_resources(sweep)),
        param_space={SETUP: ray_tune.grid_search([trial_setup(one, sweep, concurrent, command) for one in remaining])},
        tune_config=ray_tune.TuneConfig(
            scheduler=make_scheduler(sweep, rungs, progress.on_decision),
            max_concurrent_trials=concurrent,
            reuse_actors=False,  # a new process for each trial: a stopped one may hold GPU memory
            trial_name_creator=lambda trial: setup_of(trial)["name"],
            trial_dirname_creator=lambda trial: setup_of(trial)["name"],
        ),
        run_config=ray_tune.RunConfig(
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{command[:4]}",
            storage_path=str(sweep.out / "ray"),
            verbose=0,
            stop=StopWhenSaved(sweep.out),
            failure_config=ray_tune.FailureConfig(max_failures=sweep.base.max_failures),
            callbacks=[progress],
        ),
    )


def _raise_stopped(number: int, trials: list[Trial]) -> None:
    states = Counter(status_of(Run(trial.config)).state for trial in trials)
    left = states["interrupted"] + states["running"] + states["pending"]
    if left:
        print(
            f"stopped; {states['interrupted']} trials are saved and {states['pending']} have not begun; run the same "
            "command again to resume",
            flush=True,
        )
        raise RunStoppedError(128 + number)


def _report_end(manifest: SweepManifest) -> None:
    """Name the trials that have not come to a good end.

    Raises:
        UserError: none has.
    """
    found = {name: manifest.status(name) for name in manifest.trials}
    failed = {name: status for name, status in found.items() if status.state == "failed"}
    left = [name for name, status in found.items() if status.state not in ENDED]
    for name, status in failed.items():
        print(f"failed: {axes_text(manifest.trials[name]['axes'])} ({status.reason}); see {manifest.folder(name)}")
    if failed:
        print("--retry-failed runs failed trials again", flush=True)
    for name in left:
        print(f"not at its end: {_left_text(name, found[name], manifest)}; the same command resumes it", flush=True)
    if not any(status.state == "finished" for status in found.values()):
        reason = next((status.reason for status in failed.values()), "all were stopped or have not ended")
        raise UserError(f"no trial of {manifest.out} has finished: {reason}")


def _left_text(name: str, status: TrialStatus, manifest: SweepManifest) -> str:
    is_asked = StopRequest(manifest.run(name).files).is_set_alone()
    why = ", stopped by the request in its folder" if is_asked else ""
    return f"{axes_text(manifest.trials[name]['axes'])}, at {status.targets_seen:,} targets{why}"


class _Progress(ray_tune.Callback):
    """Prints a line for each validation and for the end of each trial."""

    def __init__(self, num_trials: int, num_ended: int, total_targets: int) -> None:
        self._num_trials, self._num_ended, self._total = num_trials, num_ended, total_targets
        self._started = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if SCORE not in result:
            return
        values = "  ".join(
            f"K={key.split('@')[1]} {number_text(value)}"
            for key, value in result.items()
            if key.startswith("change_acc@")
        )
        self._print(trial, f"{result[TIME]:,} of {self._total:,} targets  change_acc {values}")

    def on_decision(self, name: str, decision: RungDecision) -> None:
        """Print what a rung decided."""
        print(f"  {name}: {decision.reason}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        status = status_of(_run_of(trial))
        self._num_ended += status.state in ENDED
        self._print(trial, f"{status.state} {status.reason}".rstrip())

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._print(trial, "its process died; it starts again")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune has given the trial up; called once for each."""
        run, setup = _run_of(trial), setup_of(trial)
        mark_failed(run.files.folder, failure_of_death(run, setup["command"], trial.get_error()))
        self.on_trial_complete(iteration, trials, trial)

    def _print(self, trial: Any, text: str) -> None:
        seconds = time.monotonic() - self._started
        ended = f"{self._num_ended}/{self._num_trials} ended"
        print(f"{seconds:6.0f} s  {ended}  {setup_of(trial)['title']}: {text}", flush=True)


def _run_of(trial: Any) -> Run:
    return Run(from_plain(setup_of(trial)["run"], RunConfig, "trial"))
