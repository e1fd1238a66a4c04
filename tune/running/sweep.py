"""`wm sweep`: trials of the training function under Ray Tune; ASHA stops the weak ones early.

The trials' folders hold the state, on a disk or in object storage: their logs contain the results, their checkpoints
resume them. Ray Tune's experiment state is written and never read, because `Tuner.restore` loses ASHA's rungs (ray
issue 30838). When the command runs again, here or on another machine, it starts a new Tuner for the trials that have
not ended, and ASHA gets the results of all of them.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import uses_cluster
from datasets.runtime.uris import is_remote
from tune.config import SweepConfig
from tune.report.choice_text import choice_or_reason
from tune.report.table import trials_table
from tune.results.sweep_folder import (
    SWEEP_FILE,
    SweepManifest,
    check_folder,
    collect_results,
    for_each,
    lock_sweep,
    open_sweep,
    write_manifest,
)
from tune.results.trial_status import ENDED, OUTAGE_S, State, TrialStatus, forget_failure, run_of, status_of
from tune.running.live_table import LiveTable
from tune.running.observer import Observer
from tune.running.resources import refuse_relative_paths, with_workers
from tune.running.rungs import check_rungs_in_flops, open_rungs
from tune.running.spending import Spending
from tune.running.tuner import run_tuner
from tune.running.user_callbacks import user_callbacks
from tune.search.cost import Cost, cost_of
from tune.search.source import TrialSource
from tune.search.suggest import check_optuna
from tune.search.trials import Trial, axes_text, distinct_trials, trials_of, with_absolute_paths
from wm.checkpoints.store import reason_of
from wm.data.training_data import open_data
from wm.runs.run_files import RunFiles, open_run_files
from wm.runs.stop_request import RunStoppedError, StopRequest

if TYPE_CHECKING:
    from ray.tune import Callback


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
    check_rungs_in_flops(sweep, trials)
    check_optuna(sweep)
    callbacks = user_callbacks(sweep)
    open_data(max((trial.config for trial in trials), key=lambda config: config.objective.example_frames))
    files = open_run_files(sweep.out, OUTAGE_S)
    with _reporting_outages(files), lock_sweep(sweep.out):
        check_folder(sweep)
        trials = _with_suggested(sweep, files, trials)
        if retry_failed:
            for_each(lambda trial: forget_failure(run_of(trial.config).files), trials, sweep.out)
        costs = [cost_of(trial.config) for trial in trials]
        manifest = write_manifest(sweep, trials, costs)
        files.open_folder(())
        try:
            budget = _run(sweep, files, trials, costs, manifest, callbacks)
        finally:
            files.close_folder()
        manifest = open_sweep(sweep.out, OUTAGE_S)
        rows = collect_results(manifest)
        print(f"\n{trials_table(manifest, rows)}\n", flush=True)
        if budget is not None:
            print(budget, flush=True)
        _report_end(manifest, needs_result=budget is None)
    print(choice_or_reason(sweep.out), flush=True)


@contextmanager
def _reporting_outages(files: RunFiles) -> Iterator[None]:
    """Turn an OSError of object storage that is away for long into a user's error."""
    try:
        yield
    except OSError as error:
        if not is_remote(str(files.location)):
            raise
        raise UserError(
            f"{files.location} cannot be reached ({reason_of(error)}); run the same command again to resume"
        ) from error


def _with_suggested(sweep: SweepConfig, files: RunFiles, trials: list[Trial]) -> list[Trial]:
    """The trials, and those that a search suggested in earlier commands."""
    if sweep.search != "optuna" or not files.exists(SWEEP_FILE):
        return trials
    return distinct_trials(sweep, [t["axes"] for t in (open_sweep(sweep.out, OUTAGE_S).trials).values()])


def _run(
    sweep: SweepConfig, files: RunFiles, trials: list[Trial], costs: list[Cost], manifest: SweepManifest,
    callbacks: list[Callback],
) -> str | None:  # fmt: skip
    """Run the trials that have not ended, and those that a search suggests; returns which budget ended the sweep.

    Raises:
        RunStoppedError: a signal stopped the sweep.
    """
    rungs = open_rungs(sweep, trials)
    ended = sum(state in ENDED for state in _states(sweep, trials))
    print(f"{len(trials)} trials in {files.location}; {ended} of them ended before", flush=True)
    command = uuid.uuid4().hex
    spending = Spending(sweep, files)
    table = LiveTable(sweep, spending)
    try:
        observer = Observer(sweep, files, trials, costs, manifest, rungs, table, command)
        source = TrialSource(sweep, trials, observer.outcome_of)
        left = source.num_expected - ended
        if not left:
            return None
        if (budget := spending.used_up(table.train_flops)) is not None:
            return budget
        stopped_by, budget = run_tuner(sweep, files, source, left, rungs, observer, table, spending, callbacks, command)
    finally:
        table.close()
    if stopped_by is not None:
        _raise_stopped(stopped_by, _states(sweep, source.trials))
    return budget


def _states(sweep: SweepConfig, trials: Sequence[Trial]) -> list[State]:
    return for_each(lambda trial: status_of(run_of(trial.config)).state, trials, sweep.out)


def _raise_stopped(number: int, found: Sequence[State]) -> None:
    states = Counter(found)
    left = states["interrupted"] + states["running"] + states["pending"]
    if left:
        print(
            f"stopped; {states['interrupted']} trials are saved and {states['pending']} have not begun; run the same "
            "command again to resume",
            flush=True,
        )
        raise RunStoppedError(128 + number)


def _report_end(manifest: SweepManifest, *, needs_result: bool) -> None:
    """Name the trials that have not come to a good end.

    Args:
        needs_result: a sweep that a budget ended may have none.
    Raises:
        UserError: none has come to a good end.
    """
    found = dict(zip(manifest.trials, for_each(manifest.status, manifest.trials, manifest.out), strict=True))
    failed = {name: status for name, status in found.items() if status.state == "failed"}
    left = [name for name, status in found.items() if status.state not in ENDED]
    for name, status in failed.items():
        text = axes_text(manifest.trials[name]["axes"])
        print(f"failed: {text} ({status.reason}); see {manifest.run(name).location}")
    if failed:
        print("--retry-failed runs failed trials again", flush=True)
    for name in left:
        print(f"not at its end: {_left_text(name, found[name], manifest)}; the same command resumes it", flush=True)
    if needs_result and not any(status.state == "finished" for status in found.values()):
        reason = next((status.reason for status in failed.values()), "all were stopped or have not ended")
        raise UserError(f"no trial of {manifest.location} has finished: {reason}")


def _left_text(name: str, status: TrialStatus, manifest: SweepManifest) -> str:
    is_asked = StopRequest(manifest.run(name).files).is_set_alone()
    why = ", stopped by the request in its folder" if is_asked else ""
    return f"{axes_text(manifest.trials[name]['axes'])}, at {status.targets_seen:,} targets{why}"
