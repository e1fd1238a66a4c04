"""How long a command has made no progress."""

from __future__ import annotations

from cluster.watch.observation import Observation

SILENT_FACTOR = 4.0
"""The start of a command (workers, copies of a corpus, compilation) and the final evaluation write no rows while they
run; they may take so many times as long as a stall."""
ORPHANS_S = 30.0
"""Workers of the attempt before may still write rows so long after a command has started: these are not its own, unless
they follow a row `start`, with which an attempt begins."""


class ProgressClock:
    """The time since the last progress of the present attempt.

    Waiting for machines is no stall. Progress is a change of the targets, up or down (a run resumes from its last
    checkpoint when Ray restarts its workers), or a new row of the log.
    """

    def __init__(self, stall_minutes: float | None) -> None:
        """
        Args:
            stall_minutes: without progress that are a stall; None: nothing is.
        """
        self._limit_s = None if stall_minutes is None else stall_minutes * 60
        self._last: tuple[int | None, int] = (0, 0)
        self._since_s = self._started_s = 0.0
        self._has_moved = False
        self._starts: int | None = None
        self._starts_before: int | None = None
        self.is_known = False
        """Whether any progress was ever seen: a verb without progress has none."""

    def restart(self, now_s: float) -> None:
        """The command was started."""
        self._since_s = self._started_s = now_s
        self._has_moved = False
        self._starts_before = self._starts

    def stalled_s(self, now_s: float, seen: Observation) -> float | None:
        """Seconds without progress if that is a stall now; None if it is not."""
        self.is_known = self.is_known or seen.targets is not None
        state = (seen.targets, seen.signs_of_life)
        if state != self._last or seen.missing is not None:
            is_own = now_s - self._started_s >= ORPHANS_S or self._follows_a_start
            self._has_moved = self._has_moved or (is_own and state != self._last)
            self._last, self._since_s = state, now_s
        self._starts = seen.starts
        if self._starts_before is None:
            self._starts_before = seen.starts
        self._has_moved = self._has_moved or (seen.has_moved and self._follows_a_start)
        if self._limit_s is None or seen.targets is None:
            return None
        is_evaluating = seen.total_targets is not None and seen.targets >= seen.total_targets
        limit_s = self._limit_s * (SILENT_FACTOR if is_evaluating or not self._has_moved else 1.0)
        stalled_s = now_s - self._since_s
        return stalled_s if stalled_s >= limit_s else None

    @property
    def _follows_a_start(self) -> bool:
        """Whether the present attempt had begun its log when it was last seen."""
        return self._starts is not None and self._starts_before is not None and self._starts > self._starts_before
