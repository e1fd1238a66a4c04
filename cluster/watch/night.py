"""The decisions of the night watch: a state machine without clock, files, processes or Ray.

    starting -> running -> (the command ends) -> pausing -> running ...
                        -> (a limit, a stall, a stop) -> ending -> ...
    until `Finish`.

What must survive the watch itself is in `Totals`, which the journal stores with every change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cluster.card.limits import Limits
from cluster.watch.machines import Machines
from cluster.watch.metric_limits import broken_rule
from cluster.watch.observation import (
    EXIT_CODES,
    Action,
    DumpStacks,
    Finish,
    Kill,
    Observation,
    Report,
    Start,
    Status,
    Terminate,
)
from cluster.watch.progress import ProgressClock
from cluster.watch.spending import Spending

SAVE_S = 120.0
"""How long a save may take: a limit is acted on so long before it, and the command has so long to end."""
PAUSES_S = (5.0, 30.0, 120.0, 300.0)
"""Between the end of the command and its next start, by the number of the restart."""
USER_ERROR = 2
STOPPED = "it was asked to stop"
SHUT_DOWN = "its head node was shut down; the next one takes the job up"
STOPPED_CODES = (143, 130)
"""Exit codes of a command that was asked to stop, and saved."""

Limit = Literal["stopped", "budget", "deadline", "killed"]
Purpose = Limit | Literal["stall", "fallback"]
"""Why the command is being ended."""


@dataclass(slots=True)
class Totals:
    """What the watch has counted since the job began."""

    attempt: int = 0
    """Starts of the command."""
    deaths: int = 0
    stalls: int = 0
    uses_fallback: bool = False
    best_targets: int = 0
    """The farthest that any attempt came."""
    died_at: int | None = None
    """The farthest that any attempt had come when the command died last."""
    told_targets: int = 0
    """Of the webhook's last progress message."""
    spending: Spending = field(default_factory=Spending)


class Watch:
    """Decides what to do at each moment of a job."""

    def __init__(
        self,
        limits: Limits,
        totals: Totals | None = None,
        *,
        save_s: float = SAVE_S,
        stall_minutes: float | None = None,
    ) -> None:
        """
        Args:
            limits: of the run card.
            stall_minutes: where the limits name none; None: nothing is a stall.
            totals: of an earlier watch of the same job.
            save_s: see SAVE_S.
        """
        self.limits, self.totals, self._save_s = limits, totals or Totals(), save_s
        self._deadline_s = None if limits.deadline is None else limits.deadline.timestamp()
        self._phase: Literal["pausing", "running", "ending", "over"] = "pausing"
        self._starts_at_s: float | None = None
        self._is_new = True
        self._purpose: Purpose | None = None
        self._reason = ""
        self._kill_at_s, self._was_killed = 0.0, False
        self._progress = ProgressClock(limits.stall_minutes or stall_minutes)
        self._machines = Machines(limits.machines_minutes, needs_prices=limits.budget_usd is not None)

    @property
    def is_ending(self) -> bool:
        """Whether the command was asked to save and end, at a limit or by its user."""
        return self._phase == "ending" and self._purpose not in ("stall", "fallback")

    @property
    def reason(self) -> str:
        """Why the command ends or was ended last; empty if it was not."""
        return self._reason

    def step(self, now_s: float, seen: Observation) -> list[Action]:
        """The actions for what is seen now, in their order; nothing after `Finish`.

        Args:
            now_s: seconds since 1970; does not go back.
        """
        if self._phase == "over":
            return []
        if self._is_new:
            self._is_new = False
            self.totals.spending.take_over(now_s)
        self.totals.spending.observe(now_s, seen.nodes)
        actions: list[Action] = list(self._machines.changes(seen))
        if self._phase == "pausing":
            return actions + self._while_pausing(now_s, seen)
        actions += self._progress_reports(seen)
        if seen.exit_code is not None:
            return actions + self._after_end(now_s, seen.exit_code, seen)
        if self._phase == "ending":
            return actions + self._while_ending(now_s, seen)
        return actions + self._while_running(now_s, seen)

    def _while_pausing(self, now_s: float, seen: Observation) -> list[Action]:
        if seen.is_interrupted:
            return self._finish("interrupted", SHUT_DOWN)
        if (limit := self._reached_limit(now_s, seen)) is not None:
            return self._finish(*limit)
        if self._starts_at_s is not None and now_s < self._starts_at_s:
            return []
        return self._start(now_s)

    def _while_running(self, now_s: float, seen: Observation) -> list[Action]:
        if (limit := self._reached_limit(now_s, seen)) is not None:
            return self._end_command(now_s, *limit)
        actions = self._machines.waits(now_s, seen.missing)
        if actions and self.limits.fallback and not self.totals.uses_fallback:
            overrides = " ".join(self.limits.fallback)
            return actions + self._end_command(now_s, "fallback", f"{seen.missing}; going on with {overrides}")
        stalled_s = self._progress.stalled_s(now_s, seen)
        return actions if stalled_s is None else actions + self._on_stall(now_s, stalled_s)

    def _while_ending(self, now_s: float, seen: Observation) -> list[Action]:
        if seen.stop is not None and self._purpose in ("stall", "fallback"):
            self._purpose, self._reason = "stopped", STOPPED
        if now_s < self._kill_at_s and (seen.stop != "now" or self._was_killed):
            return []
        self._kill_at_s, self._was_killed = now_s + self._save_s, True
        reason = "stopped at once" if seen.stop == "now" else f"it did not end within {self._save_s:,.0f} s"
        return [Report(kind="kill", message=f"{reason}; the command and its workers are killed"), Kill()]

    def _reached_limit(self, now_s: float, seen: Observation) -> tuple[Limit, str] | None:
        """The limit that ends the job now, and why; time and money end it early enough for the save."""
        spending = self.totals.spending
        if seen.stop is not None:
            return "stopped", STOPPED
        if self._deadline_s is not None and now_s + self._save_s >= self._deadline_s:
            return "deadline", f"the deadline {self.limits.deadline:%Y-%m-%d %H:%M %Z} is reached"
        budget = self.limits.budget_usd
        if budget is not None and spending.after(self._save_s) >= budget:
            return "budget", f"the budget of {budget:,.2f} USD is used up ({spending.usd:,.2f} USD spent)"
        if (reason := broken_rule(self.limits.kill, seen.evaluations)) is not None:
            return "killed", reason
        return None

    def _on_stall(self, now_s: float, stalled_s: float) -> list[Action]:
        self.totals.stalls += 1
        number, most = self.totals.stalls, self.limits.max_stalls
        reason = f"no new targets for {stalled_s / 60:,.1f} minutes, at {self.totals.best_targets:,} targets"
        facts = {"stall": number, "max_stalls": most, "minutes": round(stalled_s / 60, 2)}
        message = f"stall {number}, of which {most} lead to a restart: {reason}"
        actions: list[Action] = [Report(kind="stall", message=message, facts=facts, notifies=True), DumpStacks()]
        return actions + self._end_command(now_s, "stall", reason)

    def _end_command(self, now_s: float, purpose: Purpose, reason: str) -> list[Action]:
        self._phase, self._purpose, self._reason = "ending", purpose, reason
        self._kill_at_s, self._was_killed = now_s + self._save_s, False
        is_limit = purpose in ("budget", "deadline", "killed")
        kind = "limit" if is_limit else "ending"
        report = Report(kind=kind, message=f"{reason}; saving", facts={"purpose": purpose}, notifies=is_limit)
        return [report, Terminate()]

    def _after_end(self, now_s: float, exit_code: int, seen: Observation) -> list[Action]:
        purpose, self._purpose = self._purpose, None
        facts = {"exit_code": exit_code, "attempt": self.totals.attempt}
        actions: list[Action] = [Report(kind="ended", message=f"the command ended: {text_of(exit_code)}", facts=facts)]
        if exit_code == 0:
            return actions + self._finish("finished", "the command has finished")
        if purpose == "stopped" and seen.is_interrupted:
            return actions + self._finish("interrupted", SHUT_DOWN)
        if purpose in ("stopped", "budget", "deadline", "killed"):
            return actions + self._finish(purpose, self._reason)
        if purpose == "fallback":
            self.totals.uses_fallback = True
            return actions + self._pause(now_s, self._reason, PAUSES_S[0])
        if purpose == "stall":
            if self.totals.stalls > self.limits.max_stalls:
                reason = f"stalled {self.totals.stalls} times, the last time: {self._reason}; see the stacks"
                return actions + self._finish("failed", reason)
            return actions + self._pause(now_s, self._reason, PAUSES_S[0])
        if exit_code == USER_ERROR:
            reason = "the command refused to go on (exit code 2); its last lines say why"
            return actions + self._finish("failed", reason, USER_ERROR)
        if exit_code in STOPPED_CODES:
            return actions + self._finish("stopped", "the command was stopped by a signal that was not the watch's")
        return actions + self._on_death(now_s, exit_code)

    def _on_death(self, now_s: float, exit_code: int) -> list[Action]:
        totals, ended = self.totals, text_of(exit_code)
        totals.deaths += 1
        is_stuck = self._progress.is_known and totals.died_at is not None and totals.best_targets <= totals.died_at
        totals.died_at = totals.best_targets
        if is_stuck:
            at = f"{totals.best_targets:,} targets"
            return self._finish("failed", f"the command died twice without progress, at {at} ({ended}); see its log")
        if totals.deaths > self.limits.retries:
            return self._finish("failed", f"the command died {totals.deaths} times, the last time: {ended}")
        pause_s = PAUSES_S[min(totals.deaths, len(PAUSES_S)) - 1]
        reason = f"the command died ({ended}), restart {totals.deaths} of {self.limits.retries}"
        return self._pause(now_s, reason, pause_s, notifies=True)

    def _pause(self, now_s: float, reason: str, pause_s: float, *, notifies: bool = False) -> list[Action]:
        self._phase, self._starts_at_s = "pausing", now_s + pause_s
        return [Report(kind="restart", message=f"{reason}; starting again in {pause_s:g} s", notifies=notifies)]

    def _start(self, now_s: float) -> list[Action]:
        self._phase = "running"
        self.totals.attempt += 1
        self._progress.restart(now_s)
        self._machines.restart()
        arguments = self.limits.fallback if self.totals.uses_fallback else ()
        number = self.totals.attempt
        return [
            Start(attempt=number, arguments=tuple(arguments)),
            Report(kind="started", message=f"the command was started, attempt {number}", notifies=number == 1),
        ]

    def _finish(self, status: Status, reason: str, exit_code: int | None = None) -> list[Action]:
        self._phase = "over"
        code = EXIT_CODES.get(status, 1) if exit_code is None else exit_code
        facts = {"status": status, "exit_code": code, "spent_usd": round(self.totals.spending.usd, 4)}
        facts |= {"targets": self.totals.best_targets, "attempts": self.totals.attempt}
        message = f"{status}: {reason}"
        return [
            Report(kind="end", message=message, facts=facts, notifies=True),
            Finish(status=status, reason=reason, exit_code=code),
        ]

    def _progress_reports(self, seen: Observation) -> list[Action]:
        totals = self.totals
        totals.best_targets = max(totals.best_targets, seen.targets or 0)
        every = self.limits.webhook_every_targets
        if not every or totals.best_targets // every <= totals.told_targets // every:
            return []
        totals.told_targets = totals.best_targets
        of = f" of {seen.total_targets:,}" if seen.total_targets else ""
        spent = f"; {totals.spending.usd:,.2f} USD so far" if totals.spending.usd else ""
        return [Report(kind="progress", message=f"{totals.best_targets:,}{of} targets{spent}", notifies=True)]


def text_of(exit_code: int) -> str:
    """An exit code in words."""
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    return f"exit code {exit_code}"
