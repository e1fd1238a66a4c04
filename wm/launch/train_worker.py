"""One worker of a run: where it resumes, what ends the run, and what ends only this attempt.

Ray Train restarts the workers when one dies or raises. `FailurePolicy` tells it which exceptions end the run: those of
a user's error, on whichever rank.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from datasets.runtime.errors import UserError
from datasets.runtime.process.stacks import dumping_stacks
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData, open_data
from wm.runs.crash_history import CrashHistory
from wm.runs.run import Run
from wm.runs.run_files import Lock
from wm.runs.run_log import LOG_FILE
from wm.runs.stop_request import request_stop
from wm.training import distributed
from wm.training.starting_point import agreed_checkpoint
from wm.training.trainer import train
from wm.training.validation import Row

_idle = threading.Event()
_idle.set()


class Reporter:
    """Is told what Ray shows of a run; every rank calls each method equally often. This one tells nobody."""

    def on_progress(self, row: Row) -> None:
        """Takes loss, speed and targets seen, every few seconds."""

    def on_validation(self, rows: list[Row]) -> None:
        """Takes the rows of a validation, one per context."""

    def on_end(self) -> None:
        """The run has trained to its end."""


class RepeatedCrashError(UserError):
    """The run crashed again and again, so that another attempt would be no use."""


class PreemptedError(RuntimeError):
    """A worker's machine is preempted, and the run has saved; raised on every rank, so that the run restarts."""


def is_training() -> bool:
    """Whether `work` runs in this process; any thread may ask."""
    return not _idle.is_set()


def stop_and_wait(timeout_s: float) -> bool:
    """Ask this process' run to save and stop; whether it has ended in time. Every rank must be asked."""
    request_stop()
    return _idle.wait(timeout_s)


def work(run: Run, command: str, reporter: Reporter | None = None) -> None:
    """Train as one of the ranks, from the newest intact checkpoint, to the end or to a stop request.

    Args:
        run: claimed by its driver.
        command: identifies one call of the driver.
        reporter: is told about progress and validations.
    Raises:
        PreemptedError: some worker got SIGTERM or notice of a preemption, and the run has saved.
        UserError: another attempt would be no use; perhaps on this rank alone.
    """
    history = CrashHistory(run.files, command)
    lock: Lock | None = None
    with _marked_as_training(), dumping_stacks(run.location):
        try:
            lock = run.lock_as_rank_0(command) if distributed.rank() == 0 else None
            _attempt(run, history, reporter or Reporter())
        except (UserError, PreemptedError):
            raise
        except Exception as error:
            history.record_crash(error, distributed.rank())
            raise
        finally:
            run.files.close_folder()
            if lock is not None:
                lock.close()


@contextmanager
def _marked_as_training() -> Iterator[None]:
    _idle.clear()
    try:
        yield
    finally:
        _idle.set()


def _attempt(run: Run, history: CrashHistory, reporter: Reporter) -> None:
    """Resume and train to the end, unless the run is asked to stop."""
    if distributed.broadcast_object(run.stop_request.is_set_for_run()):
        return
    data = _open_on_all_ranks(run.config)
    found, damaged = agreed_checkpoint(run.checkpoints)
    if found is None and damaged:
        raise UserError(
            f"all checkpoints of the run are damaged: {damaged[0]}; restore an intact one, or delete them to start over"
        )
    resumed_at = 0 if found is None else found.meta["targets_seen"]
    diagnosis = history.repeated_crash(resumed_at, run.config.log_every_s) if distributed.rank() == 0 else None
    diagnosis = distributed.broadcast_object(diagnosis)
    if diagnosis is not None:
        raise RepeatedCrashError(f"{diagnosis}; {history.remedy()}, then run the same command again")
    if distributed.rank() == 0:
        _log_damaged(run, resumed_at, damaged)
        history.record_start(resumed_at)
    resume = None if found is None else found.path
    result = train(run, data, reporter.on_validation, resume, reporter.on_progress)
    if not result.interrupted:
        reporter.on_end()
    elif not any(distributed.all_gather_object(run.stop_request.is_set_for_run())):
        if distributed.rank() == 0:
            history.record_preemption()
        distributed.all_gather_object(None)  # recorded before the first rank ends, which ends all of them
        raise PreemptedError(f"stopped by SIGTERM or notice of a preemption; saved at {result.targets_seen:,} targets")


def _open_on_all_ranks(config: RunConfig) -> TrainingData:
    """The run's games.

    Raises:
        UserError: on every rank: some worker cannot open them.
    """
    data, error = None, None
    try:
        data = open_data(config)
    except UserError as problem:
        error = str(problem)
    found = distributed.all_gather_object((socket.gethostname(), error))
    errors = [(host, one) for host, one in found if one is not None]
    if data is None or errors:
        host, first = errors[0]
        raise UserError(first if len(errors) == len(found) else f"{first} (on node {host}; other nodes have it)")
    return data


def _log_damaged(run: Run, resumed_at: int, damaged: list[str]) -> None:
    if not damaged:
        return
    run.open_folder()
    with contextlib.suppress(OSError), (run.files.folder / LOG_FILE).open("a") as log:
        for problem in damaged:
            row = {"kind": "problem", "targets_seen": resumed_at, "message": f"{problem}; the one before is used"}
            log.write(f"\n{json.dumps(row)}\n")  # on its own line, also after one that a kill cut off
