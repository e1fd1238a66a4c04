"""One worker of a run: where it resumes, what ends the run, and what ends only this attempt.

Ray Train restarts the workers when one raises or dies. A worker therefore returns normally when another attempt would
be no use, after it has recorded the reason in the run's folder.
"""

from __future__ import annotations

import contextlib
import json

from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData, open_data
from wm.runs.crash_history import CrashHistory
from wm.runs.run import Run
from wm.runs.run_files import Lock
from wm.runs.run_log import LOG_FILE
from wm.training import distributed
from wm.training.divergence import DivergedError
from wm.training.resume import agreed_checkpoint
from wm.training.trainer import train


class PreemptedError(RuntimeError):
    """A worker's machine is preempted, and the run has saved; raised on every rank, so that the run restarts."""


def work(config: RunConfig, command: str) -> None:
    """Train as one of the ranks, from the newest intact checkpoint, to the end or to a stop request.

    Args:
        command: identifies one call of the driver.
    Raises:
        PreemptedError: some worker got SIGTERM, and the run has saved.
        UserError: this worker of several cannot continue; the reason is in the run's folder.
    """
    run = Run(config)
    history = CrashHistory(run.files, command)
    lock: Lock | None = None
    try:
        lock = run.lock_as_rank_0(command) if distributed.rank() == 0 else None
        _attempt(run, history)
    except DivergedError as error:  # on every rank
        if distributed.rank() == 0:
            run.end(str(error))
    except UserError as error:
        # Perhaps on this worker alone, so the others must not wait for it; the next attempt ends at once.
        run.end(str(error))
        if distributed.world_size() > 1:
            raise
    except PreemptedError:
        raise
    except Exception as error:
        history.record_crash(error, distributed.rank())
        raise
    finally:
        run.files.close_folder()
        if lock is not None:
            lock.close()


def _attempt(run: Run, history: CrashHistory) -> None:
    """Resume and train to the end, unless the run is over."""
    is_over = run.end_reason() is not None or run.stop_request.is_set_for_run()
    if distributed.broadcast_object(is_over):
        return
    data = _open_on_all_ranks(run.config)
    found, damaged = agreed_checkpoint(run.checkpoints)
    if found is None and damaged:
        raise UserError(
            f"all checkpoints of the run are damaged: {damaged[0]}; restore an intact one, or delete them to start over"
        )
    resumed_at = 0 if found is None else found.meta["targets_seen"]
    diagnosis = history.repeated_crash(resumed_at, run.config.log_every_s) if distributed.rank() == 0 else None
    if diagnosis is not None:
        run.end(f"{diagnosis}; {history.remedy()}, then run the same command again")
    if distributed.broadcast_object(diagnosis) is not None:
        return
    if distributed.rank() == 0:
        _log_damaged(run, resumed_at, damaged)
        history.record_start(resumed_at)
    # The rows of a validation are in the run's log. `ray.train.report` would hold every worker up for about a second.
    result = train(run, data, lambda rows: None, None if found is None else found.path)
    if result.interrupted and not any(distributed.all_gather_object(run.stop_request.is_set_for_run())):
        if distributed.rank() == 0:
            history.record_preemption()
        distributed.all_gather_object(None)  # recorded before the first rank ends, which ends all of them
        raise PreemptedError(f"stopped by SIGTERM; saved at {result.targets_seen:,} targets")


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
    errors = [one for one in distributed.all_gather_object(error) if one is not None]
    if data is None or errors:
        raise UserError(errors[0])
    return data


def _log_damaged(run: Run, resumed_at: int, damaged: list[str]) -> None:
    if not damaged:
        return
    run.open_folder()
    with contextlib.suppress(OSError), (run.files.folder / LOG_FILE).open("a") as log:
        for problem in damaged:
            row = {"kind": "problem", "targets_seen": resumed_at, "message": f"{problem}; the one before is used"}
            log.write(f"\n{json.dumps(row)}\n")  # on its own line, also after one that a kill cut off
