"""One worker of a run: where it goes on, what ends the run for good, and what only ends this attempt.

Whatever starts the workers (Ray Train does) starts them again when one raises or dies. So a worker returns where
another attempt would be no use, after it has written why into the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import IO

from datasets.runtime.errors import UserError
from datasets.runtime.file_lock import exclusive_lock
from wm.config.run_config import RunConfig
from wm.data.training_data import TrainingData, open_data
from wm.runs.crash_history import ENDING_FILE, Attempts, repeated_crash, targets_between_lines, where_to_look
from wm.runs.run_folder import LOG_FILE, place_of_checkpoints
from wm.runs.stop_request import is_told
from wm.training import distributed
from wm.training.resume import agreed_checkpoint
from wm.training.trainer import DivergedError, Row, train

WORKER_LOCK = "worker.lock"
ORPHAN_SECONDS = 120.0
"""For which rank 0 waits until workers of an earlier command are gone: two seconds after their driver's death on one
machine, until its lease ends where a machine with a network file system has died."""
POLL_SECONDS = 0.2


class PreemptedError(RuntimeError):
    """A worker's machine is to go, and the run has saved; raised on every rank, so that the run starts elsewhere."""


def work(config: RunConfig, command: str) -> None:
    """Train as one of the ranks, from the newest sound checkpoint on, to the end or until the run is told to stop.

    Args:
        command: names one call of the driver.
    Raises:
        PreemptedError: this or another worker got SIGTERM, and the run has saved.
        UserError: this worker of several cannot go on; why is in the run's folder.
    """
    attempts = Attempts(config.out, command)
    lock: IO[bytes] | None = None
    try:
        lock = _only_writer(config.out) if distributed.rank() == 0 else None
        _attempt(config, attempts)
    except DivergedError as error:  # on every rank
        if distributed.rank() == 0:
            _end(config.out, str(error))
    except UserError as error:
        # Perhaps of this worker alone, so the others must not wait for it; the next attempt ends at once.
        _end(config.out, str(error))
        if distributed.world_size() > 1:
            raise
    except PreemptedError:
        raise
    except Exception as error:
        attempts.died(error, distributed.rank())
        raise
    finally:
        if lock is not None:
            lock.close()


def _attempt(config: RunConfig, attempts: Attempts) -> None:
    """Go on from where the run stands to its end, unless it is over."""
    if distributed.from_all_ranks(_is_over(config))[0]:
        return
    data = _opened_by_all(config)
    found, damaged = agreed_checkpoint(place_of_checkpoints(config))
    if found is None and damaged:
        raise UserError(
            f"no checkpoint of the run is sound: {damaged[0]}; bring a sound copy back, or delete them to start anew"
        )
    resumed_at = 0 if found is None else found.meta["targets_seen"]
    if distributed.from_all_ranks(_begin(config, attempts, resumed_at, damaged))[0]:
        return
    result = train(config, data, _unreported, None if found is None else found.path)
    if result.interrupted and not any(distributed.from_all_ranks(is_told(config.out))):
        if distributed.rank() == 0:
            attempts.preempted()
        distributed.from_all_ranks(None)  # that is noted before any rank's end has Ray end all
        raise PreemptedError(f"told to stop by SIGTERM; saved at {result.targets_seen:,} targets")


def _is_over(config: RunConfig) -> bool:
    """Whether an attempt before has ended the run, or it is told to stop."""
    return (config.out / ENDING_FILE).exists() or is_told(config.out)


def _opened_by_all(config: RunConfig) -> TrainingData:
    """The run's games.

    Raises:
        UserError: on every rank: a worker does not find them.
    """
    data, error = None, None
    try:
        data = open_data(config)
    except UserError as mistake:
        error = str(mistake)
    errors = [one for one in distributed.from_all_ranks(error) if one is not None]
    if data is None or errors:
        raise UserError(errors[0])
    return data


def _begin(config: RunConfig, attempts: Attempts, resumes_at: int, damaged: list[str]) -> bool:
    """Note that rank 0 starts; returns whether it is no use."""
    if distributed.rank() != 0:
        return False
    slack = targets_between_lines(config.out, config.log_every_s)
    diagnosis = repeated_crash(attempts.past(), resumes_at, slack)
    if diagnosis is not None:
        _end(config.out, f"{diagnosis}; {where_to_look(config.out)}, then run the same command again")
        return True
    with contextlib.suppress(OSError), (config.out / LOG_FILE).open("a") as log:
        for problem in damaged:
            row = {"kind": "problem", "targets_seen": resumes_at, "message": f"{problem}; the one before is taken"}
            log.write(f"\n{json.dumps(row)}\n")  # a line of its own, also after one that a kill cut off
    attempts.begin(resumes_at)
    return False


def _only_writer(out: Path) -> IO[bytes]:
    """Keep other runs' rank 0 out of the folder: the workers of a killed driver may outlive it by a little.

    Raises:
        UserError: they still train.
    """
    deadline = time.monotonic() + ORPHAN_SECONDS
    refusal = f"workers of an earlier command still train in {out}; end them, and run the same command again"
    while True:
        try:
            return exclusive_lock(out / WORKER_LOCK, refusal)
        except UserError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _end(out: Path, why: str) -> None:
    with contextlib.suppress(OSError):
        (out / ENDING_FILE).write_text(why)


def _unreported(_rows: list[Row]) -> None:
    """Rows are in the run's log. Ray Train would keep them in memory, and hold every worker up for about a second."""
