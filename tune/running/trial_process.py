"""The function that Ray Tune runs in each trial's process: a driver of one run, as `wm train` is.

A trial of one process trains right here. One of several workers starts them with Ray Train, and waits for them.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from datasets.runtime.errors import UserError, one_line
from datasets.runtime.hardware import num_cores
from datasets.runtime.ray_cluster import uses_cluster
from datasets.runtime.uris import is_remote
from tune.config import SweepConfig
from tune.results.trial_status import ENDED, OUTAGE_S, Failure, mark_failed, status_of
from tune.running.trial_reports import ReportToTune, TuneReporter
from tune.search.trials import trial_of
from wm.config.typed_yaml import from_plain, to_plain
from wm.launch.driver import drive
from wm.launch.ray_workers import fit_workers
from wm.launch.shared_storage import check_folders
from wm.launch.train_worker import RepeatedCrashError, work
from wm.runs.console import print_progress
from wm.runs.crash_history import NO_TRACEBACK, CrashHistory
from wm.runs.run import ORPHAN_TIMEOUT_S, Run
from wm.runs.run_files import open_run_files
from wm.training.device import set_num_threads
from wm.training.divergence import DivergedError
from wm.training.memory_check import InsufficientMemoryError

OUTPUT_FILE = "train.log"
OUT_OF_MEMORY = ("OutOfMemory", "out of memory", "can't allocate memory")
"""In the errors of torch, CUDA and Ray."""


def command_setup(sweep: SweepConfig, concurrent: int, command: str) -> dict[str, Any]:
    """What the trials of one command have in common, as plain data.

    Args:
        sweep: with absolute paths.
        concurrent: trials that share the machine's cores.
        command: identifies the call of the driver.
    """
    return {
        "sweep": to_plain(sweep),
        "concurrent": concurrent,
        "command": command,
        "arguments": list(sys.argv),
        "address": os.environ.get("RAY_ADDRESS"),
    }


def run_trial(axes: dict[str, Any], setup: dict[str, Any]) -> None:
    """Run one trial to its end, or until it is stopped; a failure that would repeat is recorded.

    Args:
        axes: the trial's value on each axis.
        setup: of `command_setup`.
    Raises:
        Exception: what Tune retries.
    """
    if setup["address"]:
        os.environ["RAY_ADDRESS"] = setup["address"]
    sweep = from_plain(setup["sweep"], SweepConfig, "trial")
    run = Run(trial_of(sweep, axes).config, stops_with=sweep.out, retry_s=OUTAGE_S)
    if status_of(run).state in ENDED:  # since the command began
        return

    def fit(run: Run) -> None:
        run.stop_request.create()
        with _output_of(run):
            _train(run, sweep, setup)

    try:
        check_folders(replace(sweep.base, out=sweep.out), setup["command"])
        # Tune starts a trial again only when its process has ended: the lock of that one is taken over at once.
        drive(run, setup["arguments"], fit, ORPHAN_TIMEOUT_S, lock_owner=setup["command"])
    except UserError as error:
        if is_remote(str(sweep.out)) and isinstance(error.__cause__, OSError):
            raise  # the bucket is away: Tune tries again
        mark_failed(run.files, failure_of_error(error))  # not raised, so that Tune does not try again


def _train(run: Run, sweep: SweepConfig, setup: dict[str, Any]) -> None:
    if run.config.max_workers > 1:
        callbacks = [ReportToTune()]
        fit_workers(run, setup["command"], callbacks=callbacks, min_report_s=0.0, num_runs=setup["concurrent"])
        return
    # A trial on a cluster has the cores that it reserves; those of one machine share all of its cores.
    share = setup["concurrent"] if not uses_cluster() else max(1, round(num_cores() / max(1.0, sweep.cpus_per_trial)))
    set_num_threads(run.config, share)
    with print_progress(run):
        work(run, setup["command"], TuneReporter(run))


def failure_of_error(error: Exception | str) -> Failure:
    """Why a trial failed: from what its training raised, or from the text of what ended its process."""
    reason = one_line(error)
    if isinstance(error, InsufficientMemoryError) or any(
        sign in reason.replace(NO_TRACEBACK, "") for sign in OUT_OF_MEMORY
    ):
        return Failure(kind="out of memory", reason=reason)
    if isinstance(error, DivergedError):
        return Failure(kind="diverged", reason=reason)
    is_death = isinstance(error, str | RepeatedCrashError)
    return Failure(kind="died" if is_death else "user error", reason=reason)


def failure_of_death(run: Run, command: str, error: Exception | None) -> Failure:
    """Why a trial failed whose process died as often as `max_failures` allows.

    Args:
        error: Tune's text of the last death.
    """
    history = CrashHistory(run.files, command)
    attempts = history.attempts()
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    last = attempts[-1].error if attempts else None
    text = last or next((line for line in lines if any(sign in line for sign in OUT_OF_MEMORY)), None) or NO_TRACEBACK
    if not attempts:
        return failure_of_error(f"its process did not start ({lines[-1] if lines else NO_TRACEBACK})")
    return failure_of_error(f"died {len(attempts)} times, last at about {attempts[-1].reached:,} targets ({text})")


@contextmanager
def _output_of(run: Run) -> Iterator[None]:
    """Write what is printed to a file of the run, after what earlier attempts printed."""
    files = open_run_files(run.config.out, run.retry_s)  # its folder is open for longer than rank 0's
    files.open_folder([OUTPUT_FILE])
    path = files.folder / OUTPUT_FILE
    try:
        with path.open("a", buffering=1) as output, contextlib.redirect_stdout(output):
            yield
    finally:
        files.close_folder()
