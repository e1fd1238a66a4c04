"""`wm sweep`: trials of the plain training function under Ray Tune, each in one process, the weak stopped early.

The trials' own folders are the truth: their logs hold the rows, their checkpoints the way on. Ray Tune's experiment
state is written and never read, because `Tuner.restore` forgets ASHA's rungs (ray issue 30838). A command that is run
again starts a new Tuner over the trials that have not ended, and ASHA learns again what all of them have shown before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray
from tune.choose_k import choose, describe
from tune.config import AshaConfig, SweepConfig
from tune.cost import cost_of
from tune.results import (
    DONE,
    SweepNotes,
    check_folder,
    gather,
    mark_failed,
    mark_stopped,
    rows_of,
    state_of,
    write_notes,
)
from tune.table import number_text, trials_table
from tune.trials import Trial, place_text, trials_of, with_absolute_paths
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training.device import set_num_threads
from wm.training.divergence import DivergedError
from wm.training.trainer import train
from wm.training.validation import Row

TIME = "targets_seen"
SCORE = "score"
SETUP = "trial"
USER_ERROR = "user_error"
METRICS = ("change_acc", "pos_mae", "val_loss")
PRINTED_FILE = "train.log"
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial keeps its own log and TensorBoard
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command's to answer
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial whose loss is not finite has no score
    "RAY_AIR_NEW_OUTPUT": "0",  # the lines of _Progress instead of Tune's boxes
}


def run_sweep(sweep: SweepConfig) -> None:
    """Run, or resume, a sweep; show its table and the K to take.

    Raises:
        UserError: the sweep cannot start as configured, or some of its trials could not be run.
    """
    sweep = with_absolute_paths(sweep)
    trials = trials_of(sweep)
    open_data(max((trial.config for trial in trials), key=lambda config: config.objective.example_frames))
    check_folder(sweep)
    left = [trial for trial in trials if state_of(trial.config.out) not in DONE]
    if left:
        _start_ray(sweep, min(sweep.max_concurrent, len(left)))
    notes = write_notes(sweep, trials, [cost_of(trial.config) for trial in trials])
    print(f"{len(trials)} trials in {sweep.out}, {len(trials) - len(left)} of them done before", flush=True)
    errors = _run_trials(sweep, notes, trials, left) if left else []
    rows = gather(notes)
    print(f"\n{trials_table(notes, rows)}\n", flush=True)
    if errors:
        raise UserError(
            f"{len(errors)} of {len(trials)} trials ended with an error ({errors[0]}); run the same command to go on"
        )
    print(describe(choose(sweep.out)), flush=True)


def score_of(asha: AshaConfig, rows: Sequence[dict[str, Any]]) -> float:
    """What ASHA compares, from the rows of one validation; nan (which stops nothing) where there is no data."""
    chosen = [row for row in rows if asha.context is None or row["context"] == asha.context]
    values = [row[asha.metric] for row in chosen if row[asha.metric] is not None]
    if not values:
        return float("nan")
    return max(values) if asha.higher_is_better else min(values)


class RememberingAsha(ASHAScheduler):
    """ASHA that knows what trials showed before this command, and writes down which ones it stops."""

    def __init__(self, sweep: SweepConfig, past: dict[str, list[dict[str, Any]]]) -> None:
        """
        Args:
            past: trial's name -> its results so far, in order.
        """
        super().__init__(
            time_attr=TIME,
            metric=SCORE,
            mode="max" if sweep.asha.higher_is_better else "min",
            max_t=sweep.base.optimizer.total_targets,
            grace_period=sweep.asha.grace_targets,
            reduction_factor=sweep.asha.reduction_factor,
            stop_last_trials=False,
        )
        self._past = dict(past)

    def remember_ended(self, names: Sequence[str]) -> None:
        """Put the results of trials that will not run any more onto the rungs."""
        for name in names:
            self.on_trial_add(None, SimpleNamespace(trial_id=name, config={SETUP: {"name": name}}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for result in self._past.pop(_of(trial)["name"], ()):
            # What was decided then stands, so the answer is not asked for.
            super().on_trial_result(tune_controller, trial, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP:
            mark_stopped(Path(_of(trial)["run"]["out"]), result[TIME])
        return decision


class _Progress(ray_tune.Callback):
    """A line for each validation of a trial."""

    def __init__(self, num_trials: int, num_done: int, total_targets: int) -> None:
        self._num_trials, self._num_done, self._total = num_trials, num_done, total_targets
        self._started = time.monotonic()
        self.user_errors: list[str] = []

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if USER_ERROR in result and not result.get("done"):
            self.user_errors.append(result[USER_ERROR])
        if SCORE not in result:
            return
        judged = "  ".join(
            f"K={key.split('@')[1]} {number_text(value)}"
            for key, value in result.items()
            if key.startswith("change_acc@")
        )
        print(
            f"{time.monotonic() - self._started:6.0f} s  {self._num_done}/{self._num_trials} ended  "
            f"{_of(trial)['title']}: {result[TIME]:,} of {self._total:,} targets  "
            f"change_acc {judged}",
            flush=True,
        )

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._num_done += 1
        state = state_of(Path(_of(trial)["run"]["out"]))
        state = state if state in DONE else "not ended, see below"
        print(
            f"{time.monotonic() - self._started:6.0f} s  {self._num_done}/{self._num_trials} ended  "
            f"{_of(trial)['title']}: {state}",
            flush=True,
        )


def _start_ray(sweep: SweepConfig, concurrent: int) -> None:
    """Start or join Ray, and see that the trials fit: Tune would wait for ever for what is not there.

    Raises:
        UserError: too few CPUs or GPUs.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    start_ray(min_cpus=max(1, math.ceil(concurrent * sweep.cpus_per_trial)))
    there = ray.cluster_resources().get("GPU", 0.0)
    if sweep.gpus_per_trial > there:
        raise UserError(
            f"this Ray has {there:g} GPUs, a trial needs {sweep.gpus_per_trial:g}; "
            "set base.use_gpu: false and gpus_per_trial: 0, or join a cluster with GPUs"
        )


def _run_trials(sweep: SweepConfig, notes: SweepNotes, trials: list[Trial], left: list[Trial]) -> list[str]:
    """Run the trials that are left; what kept any of them from ending, in words."""
    concurrent = min(sweep.max_concurrent, len(left))
    setups = [_setup(trial, sweep, concurrent) for trial in left]
    progress = _Progress(len(trials), len(trials) - len(left), sweep.base.optimizer.total_targets)
    resources = {"CPU": sweep.cpus_per_trial} | ({"GPU": sweep.gpus_per_trial} if sweep.gpus_per_trial else {})
    storage = sweep.out / "ray"
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(_run_trial, resources),
        param_space={SETUP: ray_tune.grid_search(setups)},
        tune_config=ray_tune.TuneConfig(
            scheduler=_scheduler(sweep, notes, trials, left),
            max_concurrent_trials=concurrent,
            reuse_actors=False,  # a trial that was stopped leaves nothing behind on its GPU
            trial_name_creator=lambda trial: _of(trial)["name"],
            trial_dirname_creator=lambda trial: _of(trial)["name"],
        ),
        run_config=ray_tune.RunConfig(
            name=f"command-{len(list(storage.glob('command-*'))) + 1}",
            storage_path=str(storage),
            verbose=0,
            failure_config=ray_tune.FailureConfig(max_failures=sweep.base.max_failures),
            callbacks=[progress],
        ),
    )
    results = tuner.fit()
    return progress.user_errors + [" ".join(str(error).strip().splitlines()[-1:]) for error in results.errors]


def _scheduler(sweep: SweepConfig, notes: SweepNotes, trials: list[Trial], left: list[Trial]) -> TrialScheduler:
    if not sweep.asha.enabled:
        return FIFOScheduler()
    scheduler = RememberingAsha(sweep, {trial.name: _past(sweep.asha, notes, trial.name) for trial in trials})
    going_on = {trial.name for trial in left}
    scheduler.remember_ended([trial.name for trial in trials if trial.name not in going_on])
    return scheduler


def _past(asha: AshaConfig, notes: SweepNotes, trial: str) -> list[dict[str, Any]]:
    validations: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(notes, trial):
        judged = {"context": row.context, asha.metric: getattr(row, asha.metric)}
        validations.setdefault(row.targets_seen, []).append(judged)
    return [{TIME: targets_seen, SCORE: score_of(asha, rows)} for targets_seen, rows in validations.items()]


def _of(trial: Any) -> dict[str, Any]:
    """What a trial of Tune's was set up with."""
    return trial.config[SETUP]


def _setup(trial: Trial, sweep: SweepConfig, concurrent: int) -> dict[str, Any]:
    """What a trial's process is told."""
    return {
        "name": trial.name,
        "title": place_text(trial.axes),
        "run": to_plain(trial.config),
        "asha": to_plain(sweep.asha),
        "concurrent": concurrent,
    }


def _run_trial(parameters: dict[str, Any]) -> None:
    """What each trial's process runs: the training code of `wm train`."""
    setup = parameters[SETUP]
    config = from_plain(setup["run"], RunConfig, "trial")
    asha = from_plain(setup["asha"], AshaConfig, "trial")
    set_num_threads(config, setup["concurrent"])
    try:
        run = Run(config)
        run.claim()
        final = _train(run, asha)
    except DivergedError as error:
        mark_failed(config.out, str(error))
        ray_tune.report({TIME: 0})
    except UserError as error:
        ray_tune.report({TIME: 0, USER_ERROR: str(error)})  # not raised: trying again would not help
    else:
        # Not before: whoever is stopped at a report does not come back from it to write the last checkpoint.
        ray_tune.report(_result(asha, final))


def _train(run: Run, asha: AshaConfig) -> list[Row]:
    """Train to the end, reporting each validation but the last one, which is returned."""
    final: list[Row] = []

    def report(rows: list[Row]) -> None:
        if rows[0]["targets_seen"] >= run.config.optimizer.total_targets:
            final.extend(rows)
        else:
            ray_tune.report(_result(asha, rows))

    newest, _ = run.checkpoints.newest_intact()
    with (run.folder / PRINTED_FILE).open("a", buffering=1) as printed, contextlib.redirect_stdout(printed):
        train(run, open_data(run.config), report, None if newest is None else newest.path)
    return final


def _result(asha: AshaConfig, rows: list[Row]) -> dict[str, Any]:
    """One validation as Tune sees it."""
    numbers = {f"{name}@{row['context']}": row[name] for row in rows for name in METRICS}
    return numbers | {TIME: rows[0]["targets_seen"], "seconds": rows[0]["seconds"], SCORE: score_of(asha, rows)}
