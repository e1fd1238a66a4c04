"""`wm watch`: the process around the decisions of `cluster.watch.night`."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cluster.card.job_folder import JobFolder, JobState
from cluster.card.job_folder import Status as JobStatus
from cluster.card.run_card import RunCard
from cluster.watch.cluster_view import ClusterView, view_of
from cluster.watch.command import Command, wait_for_orphan
from cluster.watch.journal import STACKS_FOLDER, Journal, stored_by_an_earlier_watch
from cluster.watch.night import SAVE_S, Totals, Watch
from cluster.watch.observation import Action, DumpStacks, Finish, Kill, Report, Start, Terminate
from cluster.watch.observer import Observer
from cluster.watch.spending import Spending
from cluster.watch.subject import Subject, subject_of
from cluster.watch.webhook import Webhook
from datasets.runtime.process.stacks import ProcessStacks

EVERY_S = 5.0
"""Between two observations."""
CHILD_POLL_S = 0.2
WEBHOOK_CLOSE_S = 20.0
MIN_STALL_MINUTES = 15.0
STALL_FRACTION = 0.05
"""Of the estimated time, without progress, is a stall."""
JOB_STATUS: dict[str, JobStatus] = {
    "finished": "succeeded", "failed": "failed", "stopped": "stopped", "interrupted": "interrupted",
    "budget": "stopped", "deadline": "stopped", "killed": "stopped",
}  # fmt: skip
"""By the status of the watch: a job that ended at a limit counts as stopped, and its reason names the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the watch works."""

    every_s: float = EVERY_S
    save_s: float = SAVE_S
    """See `cluster.watch.night.SAVE_S`."""


def watch_job(card: RunCard, folder: JobFolder, pace: Pace | None = None) -> int:
    """Run a job's command to its end, or to a limit. Called in the main thread.

    Returns:
        The exit code: see `EXIT_CODES`.
    Raises:
        UserError: the arguments are wrong, no cluster is at RAY_ADDRESS, or another process watches the job.
    """
    pace, subject = pace or Pace(), subject_of(card)
    view = view_of(card.limits.prices)
    with folder.hold():
        ended = folder.read_state()
        if ended is not None and ended.is_final:  # on another head node, which took it up as well
            print(f"job {card.job} has already ended: {ended.status}", flush=True)
            return 0 if ended.status == "succeeded" else 1
        view.open()
        process = _WatchProcess(card, folder, subject, view, pace)
        try:
            return process.run()
        finally:
            process.close()
            view.close()


class _WatchProcess:
    """Observes, asks the state machine, and acts."""

    def __init__(self, card: RunCard, folder: JobFolder, subject: Subject, view: ClusterView, pace: Pace) -> None:
        self._card, self._folder, self._subject, self._view, self._pace = card, folder, subject, view, pace
        state = folder.read_state()
        self._before = {} if state is None else stored_by_an_earlier_watch(folder)
        self._state = state or JobState(status="submitted")
        self._interruptions = self._state.interruptions
        self._totals = totals_of(self._before)
        self._watch = Watch(card.limits, self._totals, save_s=pace.save_s, stall_minutes=stall_minutes_of(card))
        self._journal = Journal(folder, card, subject)
        self._webhook = None
        if card.limits.webhook:
            self._webhook = Webhook(
                card.limits.webhook, lambda reason: self._journal.event("webhook failed", f"{reason}; the job goes on")
            )
        self._command: Command | None = None
        self._finish: Finish | None = None
        self._is_stopped = threading.Event()

    def run(self) -> int:
        """Until the end of the job; returns the exit code."""
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        observer = Observer(self._subject, self._view, self._folder, self._pace.every_s)
        try:
            self._begin()
            return self._loop(observer)
        finally:
            observer.close()
            if self._command is not None and self._command.exit_code is None:
                self._command.terminate()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Send and write what is left."""
        if self._webhook is not None:
            self._webhook.close(WEBHOOK_CLOSE_S)
        self._journal.close()

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self._is_stopped.set()

    def _begin(self) -> None:
        again = f", after attempt {self._totals.attempt} of an earlier watch" if self._totals.attempt else ""
        self._journal.event(
            "start", f"{self._card.command_line()}{again}", job=self._card.job, works_for=self._subject.location
        )
        left = wait_for_orphan(self._before.get("command"), self._pace.save_s)
        if left is not None:
            self._journal.event("orphan", left)

    def _loop(self, observer: Observer) -> int:
        start_s, start = time.time(), time.monotonic()
        was_running = False
        while True:
            exit_code = None if self._command is None else self._command.exit_code
            if was_running and exit_code is not None:
                observer.refresh()
            was_running = self._command is not None and exit_code is None
            is_stopped = self._is_stopped.is_set()
            is_shut_down = is_stopped and not was_running and self._view.is_shut_down()
            seen = observer.observe(exit_code, is_stopped=is_stopped, is_shut_down=is_shut_down)
            now_s = start_s + time.monotonic() - start  # a corrected clock must not look like a stall
            actions = self._watch.step(now_s, seen)
            for action in actions:
                self._do(action)
            self._store(is_urgent=bool(actions))
            if self._finish is not None:
                self._view.release()
                return self._finish.exit_code
            was_running = was_running or any(isinstance(action, Start) for action in actions)
            self._sleep()

    def _sleep(self) -> None:
        """Until the next observation is due, the command ends, or a signal comes."""
        deadline = time.monotonic() + self._pace.every_s
        is_running = self._command is not None and self._command.exit_code is None
        was_stopped = self._is_stopped.is_set()
        while time.monotonic() < deadline:
            time.sleep(CHILD_POLL_S)
            if self._is_stopped.is_set() != was_stopped:
                return
            if is_running and self._command is not None and self._command.exit_code is not None:
                return

    def _do(self, action: Action) -> None:
        command = self._command
        if isinstance(action, Report):
            self._journal.event(action.kind, action.message, **action.facts)
            if action.notifies and self._webhook is not None:
                self._webhook.send(f"{self._card.job}: {action.message}")
        elif isinstance(action, Start):
            self._command = Command(self._card.command(*action.arguments)[1:], self._subject.location)
        elif isinstance(action, Terminate) and command is not None:
            command.terminate()
        elif isinstance(action, Kill) and command is not None:
            command.kill()
            self._view.kill_workers(self._subject.location)
        elif isinstance(action, DumpStacks):
            self._dump_stacks()
        elif isinstance(action, Finish):
            self._finish = action

    def _dump_stacks(self) -> None:
        found = self._view.stacks(self._subject.location)
        text = stacks_text(found)
        print(text, file=sys.stderr, flush=True)
        name = f"{STACKS_FOLDER}/attempt-{self._totals.attempt}-stall-{self._totals.stalls}.txt"
        self._journal.file(name, text)
        self._journal.event("stacks", f"stacks of {len(found)} processes are in {name}", file=name)

    def _store(self, *, is_urgent: bool) -> None:
        totals, finish, command, now = self._totals, self._finish, self._command, datetime.now(UTC)
        exit_code = None if command is None else command.exit_code
        status = JOB_STATUS[finish.status] if finish else "stopping" if self._watch.is_ending else "running"
        self._state = replace(
            self._state,
            status=status,
            attempt=totals.attempt,
            exit_code=self._state.exit_code if exit_code is None else exit_code,
            reason=finish.reason if finish else self._watch.reason or None,
            targets=totals.best_targets,
            spent_usd=round(totals.spending.usd, 4),
            started=self._state.started or now,
            ended=now if finish and status != "interrupted" else None,
            interruptions=self._interruptions + (status == "interrupted"),
        )
        identity = command.identity() if command is not None and exit_code is None else None
        self._journal.state(self._state, {"totals": asdict(totals), "command": identity}, is_urgent=is_urgent)


def stall_minutes_of(card: RunCard) -> float:
    """How long a job may make no progress where its limits do not say: a part of its estimated length, at least 15."""
    hours = (card.estimate or {}).get("hours") or 0.0
    return max(MIN_STALL_MINUTES, STALL_FRACTION * 60 * float(hours))


def totals_of(state: dict[str, Any]) -> Totals:
    """What an earlier watch of the job has counted; nothing if there was none."""
    stored = dict(state.get("totals") or {})
    spending = Spending(**stored.pop("spending", {}))
    return replace(Totals(**stored), spending=spending)


def stacks_text(found: Sequence[ProcessStacks]) -> str:
    """The stacks of several processes as a text."""
    if not found:
        return "no process of the command answers on any machine"
    parts = []
    for one in found:
        answer = one.text.strip() or "(it did not answer)"
        parts.append(f"== process {one.pid} on {one.host}, {one.state}, works for {one.works_for}\n{answer}")
    return "\n\n".join(parts)
