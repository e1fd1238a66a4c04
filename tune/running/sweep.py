"""`wm sweep`: trials of the training function under Ray Tune, one process each; ASHA stops the weak ones early.

The trials' folders hold the state: their logs contain the results, their checkpoints resume them. Ray Tune's
experiment state is written and never read, because `Tuner.restore` loses ASHA's rungs (ray issue 30838). When the
command runs again, it starts a new Tuner for the trials that have not ended, and ASHA gets the results of all of them.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray
from tune.config import SweepConfig
from tune.report.choose_k import choose, describe
from tune.report.table import number_text, trials_table
from tune.results.rung_record import RungDecision
from tune.results.sweep_folder import check_folder, collect_results, lock_sweep, write_manifest
from tune.results.trial_status import ENDED, status_of
from tune.running.asha import SCORE, SETUP, TIME, make_scheduler, setup_of
from tune.running.rungs import Rungs, open_rungs
from tune.running.trial_process import USER_ERROR, run_trial, trial_setup
from tune.search.cost import cost_of
from tune.search.trials import Trial, trials_of, with_absolute_paths
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.runs.run_files import LocalRunFiles
from wm.runs.stop_request import StopRequest

SIGNAL_POLL_S = 0.2
"""How often the main thread wakes up to run signal handlers."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial writes its own log and TensorBoard events
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `_fit` handles Ctrl-C
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial whose loss is not finite has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # _Progress prints instead of Tune
}


def run_sweep(sweep: SweepConfig) -> None:
    """Run, or resume, a sweep; print its results and the recommended K.

    SIGTERM (as TerminatedError) and Ctrl-C make the running trials save and end before the exception goes on.

    Raises:
        UserError: the sweep cannot start as configured, or some of its trials could not run.
    """
    sweep = with_absolute_paths(sweep)
    trials = trials_of(sweep)
    with lock_sweep(sweep.out):
        _run_locked(sweep, trials)


def _run_locked(sweep: SweepConfig, trials: list[Trial]) -> None:
    open_data(max((trial.config for trial in trials), key=lambda config: config.objective.example_frames))
    check_folder(sweep)
    rungs = open_rungs(sweep, trials)
    remaining = [trial for trial in trials if status_of(Run(trial.config)).state not in ENDED]
    if remaining:
        _start_ray(sweep, min(sweep.max_concurrent, len(remaining)))
    manifest = write_manifest(sweep, trials, [cost_of(trial.config) for trial in trials])
    print(f"{len(trials)} trials in {sweep.out}; {len(trials) - len(remaining)} of them ended before", flush=True)
    errors = _run_trials(sweep, rungs, trials, remaining) if remaining else []
    rows = collect_results(manifest)
    print(f"\n{trials_table(manifest, rows)}\n", flush=True)
    if errors:
        raise UserError(
            f"{len(errors)} of {len(trials)} trials ended with an error ({errors[0]}); run the same command to resume"
        )
    print(describe(choose(sweep.out)), flush=True)


def _start_ray(sweep: SweepConfig, concurrent: int) -> None:
    """Start or join Ray and check that the trials fit: Tune would wait forever for missing resources.

    Raises:
        UserError: too few CPUs or GPUs.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    start_ray(min_cpus=max(1, math.ceil(concurrent * sweep.cpus_per_trial)))
    num_gpus = ray.cluster_resources().get("GPU", 0.0)
    if sweep.gpus_per_trial > num_gpus:
        raise UserError(
            f"this Ray has {num_gpus:g} GPUs, a trial needs {sweep.gpus_per_trial:g}; "
            "set base.use_gpu: false and gpus_per_trial: 0, or join a cluster with GPUs"
        )


def _run_trials(sweep: SweepConfig, rungs: Rungs, trials: list[Trial], remaining: list[Trial]) -> list[str]:
    """Run the remaining trials; returns the errors of those that could not run."""
    concurrent = min(sweep.max_concurrent, len(remaining))
    stop = _StopRequest(sweep.out, remaining)
    setups = [trial_setup(trial, sweep, concurrent, sweep.out) for trial in remaining]
    resources = {"CPU": sweep.cpus_per_trial, "GPU": sweep.gpus_per_trial}
    progress = _Progress(len(trials), len(trials) - len(remaining), sweep.base.optimizer.total_targets)
    storage = sweep.out / "ray"
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(run_trial, resources),
        param_space={SETUP: ray_tune.grid_search(setups)},
        tune_config=ray_tune.TuneConfig(
            scheduler=make_scheduler(sweep, rungs, progress.on_decision),
            max_concurrent_trials=concurrent,
            reuse_actors=False,  # a new process for each trial: a stopped one may hold GPU memory
            trial_name_creator=lambda trial: setup_of(trial)["name"],
            trial_dirname_creator=lambda trial: setup_of(trial)["name"],
        ),
        run_config=ray_tune.RunConfig(
            name=f"command-{len(list(storage.glob('command-*'))) + 1}",
            storage_path=str(storage),
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=sweep.base.max_failures),
            callbacks=[progress],
        ),
    )
    results = _fit(tuner, stop)
    return progress.user_errors + [" ".join(str(error).strip().splitlines()[-1:]) for error in results.errors]


def _fit(tuner: ray_tune.Tuner, stop: _StopRequest) -> ray_tune.ResultGrid:
    """Run Tune in a thread, so that SIGTERM and Ctrl-C do not interrupt it before the running trials have saved."""
    outcome: list[Any] = []
    ended = threading.Event()

    def fit() -> None:
        try:
            outcome.append(tuner.fit())
        except BaseException as error:  # raised again in the main thread
            outcome.append(error)
        finally:
            ended.set()

    stop.clear()
    threading.Thread(target=fit, name="ray-tune", daemon=True).start()
    try:
        _wait(ended)
    except (KeyboardInterrupt, SystemExit):
        stop.request()
        _wait(ended)  # a second Ctrl-C exits at once
        raise
    finally:
        stop.clear()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _wait(ended: threading.Event) -> None:
    """Wait in short steps. Not Thread.join: an exception in it marks the thread as ended (Python 3.11)."""
    while not ended.wait(SIGNAL_POLL_S):
        pass


class _StopRequest:
    """Tells the trials of this command to save and end."""

    def __init__(self, out: Path, trials: Sequence[Trial]) -> None:
        self.folder = out
        """Trials that start read the request here."""
        self._folders = [Path(trial.config.out) for trial in trials]

    def request(self) -> None:
        """Stop the running trials; the others start, see the request and end at once."""
        for folder in (self.folder, *self._folders):
            if folder.exists():
                StopRequest(LocalRunFiles(folder)).request()

    def clear(self) -> None:
        """Withdraw the request, also one that a killed command has left."""
        for folder in (self.folder, *self._folders):
            if folder.exists():
                StopRequest(LocalRunFiles(folder)).clear()


class _Progress(ray_tune.Callback):
    """Prints a line for each validation and for the end of each trial."""

    def __init__(self, num_trials: int, num_ended: int, total_targets: int) -> None:
        self._num_trials, self._num_ended, self._total = num_trials, num_ended, total_targets
        self._started = time.monotonic()
        self.user_errors: list[str] = []

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if USER_ERROR in result and not result.get("done"):
            self.user_errors.append(result[USER_ERROR])
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
        state = status_of(Run(from_plain(setup_of(trial)["run"], RunConfig, "trial"))).state
        self._num_ended += state in ENDED
        self._print(trial, state)

    def _print(self, trial: Any, text: str) -> None:
        seconds = time.monotonic() - self._started
        ended = f"{self._num_ended}/{self._num_trials} ended"
        print(f"{seconds:6.0f} s  {ended}  {setup_of(trial)['title']}: {text}", flush=True)
