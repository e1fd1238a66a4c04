"""How a sweep ends before its end: SIGTERM, Ctrl-C, or a request in its folder; all running trials save first.

One file asks all of them (`wm.runs.stop_request`): each trial reads the sweep's request besides its own. Tune ends when
no trial's process works any more, so none is killed while it saves and none starts that would have to stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

from ray import tune as ray_tune

from wm.runs.run import Run
from wm.runs.stop_request import StopRequest

SIGNAL_POLL_S = 0.1
"""How often the main thread wakes up to run signal handlers."""


class StopWhenSaved(ray_tune.Stopper):
    """Ends Tune once the sweep is asked to stop and its trials have saved."""

    def __init__(self, request: StopRequest, running: Callable[[], Collection[str]]) -> None:
        """
        Args:
            request: of the sweep, watched: Tune asks after every event.
            running: the trials whose processes work.
        """
        self._request, self._running = request, running

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores what it was given, and no command restores it."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stops no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to start no other trial, and to end the processes of those that have saved."""
        is_asked = self._request.signal is not None or self._request.is_set()
        return is_asked and not self._running()


def withdraw_request(trial: Run) -> None:
    """Withdraw the request to a single trial, which was for the command before this one."""
    if trial.stop_request.is_set_alone():
        trial.stop_request.clear()


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
