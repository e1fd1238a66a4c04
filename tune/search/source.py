"""The trials of a sweep in the order in which they start. No Ray, no files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tune.config import AxisValue, SweepConfig
from tune.search.axes import compared_axes, level_of, setting_of
from tune.search.suggest import Outcome, Setting, optuna_setting, random_setting
from tune.search.trials import Trial, Values, combinations_of, distinct_trials, trial_of

OutcomeOf = Callable[[Setting, Sequence[Trial]], Outcome]
"""A setting and its trials, one for each seed -> what is known of it."""
Key = tuple[tuple[str, AxisValue], ...]
MAX_DRAWS = 20
"""Suggestions until one is new; after that its level gets no more."""


class TrialSource:
    """Hands out the trials that exist, and with `search: optuna` suggests others when there are none left.

    Attributes:
        trials: all that exist, also those that were handed out.
    """

    def __init__(self, sweep: SweepConfig, trials: Sequence[Trial], outcome_of: OutcomeOf) -> None:
        """
        Args:
            trials: of `trials_of`, and those that earlier commands added.
        """
        self.trials = list(trials)
        self._waiting = list(trials)
        self._sweep, self._outcome_of = sweep, outcome_of
        self._levels: dict[Key, list[Values]] = {}
        for values in combinations_of(sweep, compared_axes(sweep)) if sweep.search == "optuna" else ():
            example = trial_of(sweep, random_setting(sweep, 0) | values)
            self._levels.setdefault(_key(level_of(sweep, example.axes)), []).append(values)
        self._full: set[Key] = set()

    @property
    def num_expected(self) -> int:
        """Trials of the whole sweep; at most, as a suggestion may repeat an earlier one."""
        seeds = sum(len(values) for values in self._levels.values())
        return max(len(self.trials), (self._sweep.num_samples or 0) * seeds)

    def next(self) -> tuple[Trial | None, list[Trial]]:
        """The next trial, None after the last one; and the trials that came into being, to be recorded first."""
        added = [] if self._waiting else self._suggest()
        self.trials += added
        self._waiting += added
        return (self._waiting.pop(0) if self._waiting else None), added

    def _suggest(self) -> list[Trial]:
        """The trials of a new setting, in the level that has the fewest; none if there is no more."""
        by_level: dict[Key, dict[Key, list[Trial]]] = {level: {} for level in self._levels}
        for trial in self.trials:
            settings = by_level.get(_key(level_of(self._sweep, trial.axes)), {})
            settings.setdefault(_key(setting_of(self._sweep, trial.axes)), []).append(trial)
        for number, (level, settings) in sorted(enumerate(by_level.items()), key=lambda entry: len(entry[1][1])):
            if level in self._full or len(settings) >= (self._sweep.num_samples or 0):
                continue
            outcomes = [self._outcome_of(dict(setting), trials) for setting, trials in settings.items()]
            known = {trial.name for trial in self.trials}
            for draw in range(MAX_DRAWS):
                setting = optuna_setting(self._sweep, number, len(settings) + 1_000 * draw, outcomes)
                trials = distinct_trials(self._sweep, [setting | dict(values) for values in self._levels[level]])
                if new := [trial for trial in trials if trial.name not in known]:
                    return new
            self._full.add(level)
        return []


def _key(values: Mapping[str, AxisValue]) -> Key:
    return tuple(sorted(values.items()))
