"""How a sweep ends before its end: SIGTERM, Ctrl-C, or a request in its folder; all running trials save first.

One file asks all of them (`wm.runs.stop_request`): each trial reads the sweep's request besides its own. Tune ends when
no trial holds its lock any more, so none is killed while it saves and none starts that would have to stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from datasets.runtime.file_lock import is_locked
from tune.results.sweep_folder import TRIALS_FOLDER
from wm.runs.run import DRIVER_LOCK
from wm.runs.run_files import LocalRunFiles
from wm.runs.stop_request import StopRequest

SIGNAL_POLL_S = 0.1
"""How often the main thread wakes up to run signal handlers."""


class StopWhenSaved(ray_tune.Stopper):
    """Ends Tune once the sweep is asked to stop and its trials have saved."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to start no other trial, and to end the processes of those that have saved."""
        return stop_request_of(self._out).is_set_for_run() and not running_trials(self._out)


def stop_request_of(out: Path) -> StopRequest:
    """The stop request of a sweep."""
    return StopRequest(LocalRunFiles(out))


def running_trials(out: Path) -> list[str]:
    """Names of the trials that a process trains, of whatever command."""
    locks = sorted((out / TRIALS_FOLDER).glob(f"*/{DRIVER_LOCK}"))
    return [lock.parent.name for lock in locks if is_locked(lock)]


def withdraw_requests(out: Path) -> None:
    """Withdraw the requests to single trials, which were for the command before this one."""
    for folder in (out / TRIALS_FOLDER).glob("*/"):
        request = StopRequest(LocalRunFiles(folder))
        if request.is_set_alone():
            request.clear()


def call_in_thread(function: Callable[[], Any], while_waiting: Callable[[], None] = lambda: None) -> Any:
    """Call a function in a thread, so that signals are handled in the main thread meanwhile; returns its result.

    Args:
        while_waiting: called ten times a second.
    Raises:
        BaseException: what the function raised, or what a signal handler raises.
    """
    results: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised again in the main thread
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=call, name="ray-tune", daemon=True).start()
    while not ended.wait(SIGNAL_POLL_S):  # not Thread.join: an exception in it marks the thread as ended (Python 3.11)
        while_waiting()
    if errors:
        raise errors[0]
    return results[0]
