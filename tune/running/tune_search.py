"""The trials of a sweep for Ray Tune: their configs are the axes alone, so that each axis is a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from tune.search.source import TrialSource
from tune.search.trials import Trial


class SweepSearch(Searcher):
    """Hands Tune the trials of a `TrialSource` one by one, in the moment in which one can start.

    What exists is in sweep.json, from which a command that runs again begins; so Tune need not save a searcher.
    """

    def __init__(
        self,
        source: TrialSource,
        is_over: Callable[[], bool],
        is_due: Callable[[Trial], bool],
        on_added: Callable[[Sequence[Trial]], None],
    ) -> None:
        """
        Args:
            is_over: whether no further trial may start, because of a signal or a budget. Then none comes into being
                either: a later command suggests it, from more results.
            is_due: whether a trial is to run: it has not ended.
            on_added: records trials that came into being, before any of them starts.
        """
        super().__init__(metric="targets_seen", mode="max")  # Tune wants some; the source knows the results
        self._source, self._is_over, self._is_due, self._on_added = source, is_over, is_due, on_added

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune stores what it was given, and no command restores it."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial as axis -> value, or FINISHED after the last one."""
        while not self._is_over():
            trial, added = self._source.next()
            if added:
                self._on_added(added)
            if trial is None:
                return Searcher.FINISHED
            if self._is_due(trial):
                return dict(trial.axes)
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the source reads the results of the trials themselves."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is to be saved; Tune wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""
