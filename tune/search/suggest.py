"""Draws settings for `search: random` and `search: optuna`. Plain functions: no Ray, no files.

A suggestion is a function of its number and of the results that it may know, and keeps no state. A sweep that was
killed and runs again therefore needs only its trials: with one trial at a time it makes the same suggestions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datasets.runtime.errors import UserError
from tune.config import Axis, AxisValue, Range, SweepConfig
from tune.search.axes import compared_axes, values_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Setting = dict[str, AxisValue]
"""Axis that is not compared -> value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A setting that exists, and what is known of it."""

    setting: Setting
    state: Literal["running", "finished", "stopped", "failed"]
    score: float | None = None
    """Mean over the seeds of `asha.metric`, at the end or when it was stopped; None if there is none."""
    time: float = 0.0
    """Targets seen by then."""


def searched_axes(sweep: SweepConfig) -> dict[str, Axis]:
    """The axes that random and optuna draw: those that are not compared."""
    compared = compared_axes(sweep)
    return {name: axis for name, axis in sweep.axes.items() if name not in compared}


def random_setting(sweep: SweepConfig, number: int) -> Setting:
    """The setting with this number of a random search: independent and uniform on every axis."""
    generator = np.random.default_rng([sweep.search_seed, number])
    return {name: _draw(sweep, name, axis, generator) for name, axis in searched_axes(sweep).items()}


def optuna_setting(sweep: SweepConfig, level: int, number: int, outcomes: Sequence[Outcome]) -> Setting:
    """The next setting that Optuna's TPE (Bergstra et al. 2011) suggests; the first ten are random draws.

    Args:
        level: number of the combination of compared axes; each has a study of its own.
        number: of the suggestion within the level.
        outcomes: the settings of the level so far. Running ones count as bad, so that others are tried.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(sweep, name, axis) for name, axis in searched_axes(sweep).items()}
    seed = int(np.random.default_rng([sweep.search_seed, level, number]).integers(2**31))
    study = optuna.create_study(
        direction="maximize" if sweep.asha.higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    )
    states = {"running": "RUNNING", "finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    for outcome in outcomes:
        has_ended = outcome.state in ("finished", "stopped")
        score = outcome.score if has_ended and outcome.score is not None and math.isfinite(outcome.score) else None
        state = "FAIL" if has_ended and score is None else states[outcome.state]
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[state],
                params=outcome.setting,
                distributions={name: distributions[name] for name in outcome.setting},
                value=score if state == "COMPLETE" else None,
                intermediate_values=None if score is None else {int(outcome.time): score},
            )
        )
    return dict(study.ask(distributions).params)


def check_optuna(sweep: SweepConfig) -> None:
    """Check that Optuna is there if the sweep needs it.

    Raises:
        UserError: it is not.
    """
    if sweep.search == "optuna":
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"search: optuna needs the package optuna ({error}); pip install 'melee-world-model[optuna]', or set "
                "search: random"
            ) from error


def _draw(sweep: SweepConfig, name: str, axis: Axis, generator: np.random.Generator) -> AxisValue:
    if not isinstance(axis, Range):
        values = values_of(sweep.axes, name)
        return values[int(generator.integers(len(values)))]
    step = _step(axis)
    if step is not None:
        index = int(generator.integers(math.floor((axis.high - axis.low) / step + 1e-9) + 1))
        return axis.low + index * step
    if axis.log:
        value = math.exp(generator.uniform(math.log(axis.low), math.log(axis.high)))
        return round(value) if axis.is_whole else value
    return float(generator.uniform(axis.low, axis.high))


def _distribution(sweep: SweepConfig, name: str, axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(axis, Range):
        return CategoricalDistribution(values_of(sweep.axes, name))
    arguments: dict[str, Any] = {"low": axis.low, "high": axis.high, "log": axis.log}
    if axis.is_whole and (axis.step is None or isinstance(axis.step, int)):
        return IntDistribution(**arguments, step=int(axis.step or 1))
    return FloatDistribution(**arguments, step=axis.step)


def _step(axis: Range) -> float | None:
    """The distance between two values of a range; None for any value, or in a logarithmic range."""
    return 1 if axis.is_whole and axis.step is None and not axis.log else axis.step
