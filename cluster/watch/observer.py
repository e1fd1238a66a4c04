"""Reads progress and machines every few seconds, in threads: storage or a head that hangs blocks nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cluster.card.job_folder import JobFolder, StopKind
from cluster.watch.cluster_view import ClusterView, Machines
from cluster.watch.observation import Observation
from cluster.watch.subject import Progress, Subject

STALE_S = 60.0
"""An answer that is older counts as none."""
REFRESH_S = 10.0

Value = TypeVar("Value")


class Poller(Generic[Value]):
    """Calls a function again and again in a thread, and keeps its last answer."""

    def __init__(self, read: Callable[[], Value | None], every_s: float) -> None:
        self._read, self._every_s = read, every_s
        self._last: tuple[float, Value] | None = None
        self._is_over = False
        self._wakes, self._answered = threading.Event(), threading.Event()
        threading.Thread(target=self._poll, name="watch-poller", daemon=True).start()

    @property
    def value(self) -> Value | None:
        """The last answer; None if there is no recent one."""
        last = self._last
        return None if last is None or time.monotonic() - last[0] > STALE_S + self._every_s else last[1]

    def refresh(self, timeout_s: float) -> None:
        """Wait for an answer to a call that begins now, or for some seconds."""
        self._answered.clear()
        for _ in range(2):  # a call that has begun before may answer first
            self._wakes.set()
            self._answered.wait(timeout_s / 2)
            self._answered.clear()

    def close(self) -> None:
        """End the thread; it is not awaited."""
        self._is_over = True
        self._wakes.set()

    def _poll(self) -> None:
        while not self._is_over:
            try:
                answer = self._read()
            except Exception:  # storage that is away, a file that is being replaced: the next call may succeed
                answer = None
            if answer is not None:
                self._last = time.monotonic(), answer
            self._answered.set()
            self._wakes.wait(self._every_s)
            self._wakes.clear()


class Observer:
    """What the watch sees, apart from its command."""

    def __init__(self, subject: Subject, view: ClusterView, folder: JobFolder, every_s: float) -> None:
        self._subject, self._view = subject, view
        self._progress = Poller[Progress](subject.progress, every_s)
        self._machines = Poller[Machines](view.machines, every_s)
        self._stop = Poller[StopKind](folder.stop_requested, every_s)

    def observe(self, exit_code: int | None, *, is_stopped: bool, is_shut_down: bool = False) -> Observation:
        """The newest answers; returns at once.

        Args:
            is_stopped: this process got SIGTERM.
            is_shut_down: because its machine is being shut down.
        """
        progress, machines = self._progress.value or Progress(), self._machines.value
        return Observation(
            exit_code=exit_code,
            targets=progress.targets,
            signs_of_life=progress.signs_of_life,
            starts=progress.starts,
            has_moved=progress.has_moved,
            total_targets=progress.total_targets,
            evaluations=progress.evaluations,
            nodes=None if machines is None else machines.nodes,
            draining=frozenset() if machines is None else machines.draining,
            missing=self._missing(machines),
            stop=self._stop.value or ("save" if is_stopped else None),
            is_interrupted=is_shut_down and self._stop.value is None,
        )

    def refresh(self) -> None:
        """Read the progress now: the command has ended, and how far it came decides what follows."""
        self._progress.refresh(REFRESH_S)

    def close(self) -> None:
        """End the threads."""
        self._progress.close()
        self._machines.close()
        self._stop.close()

    def _missing(self, machines: Machines | None) -> str | None:
        need = self._subject.need
        if need is None or machines is None or not self._view.sees_resources():
            return None
        return need.missing(machines.resources.get(need.kind, 0.0))
