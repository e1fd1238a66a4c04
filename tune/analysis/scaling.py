"""Scaling law of the loss with parameters and targets: L = E + A N^-a + B D^-b (Hoffmann et al. 2022, approach 3).

Fitted as in Besiroglu et al. 2024, who show how the original fit went wrong: the sum, not the mean, of the Huber losses
of log L, a tight tolerance, and many starts. Intervals are of a bootstrap of the residuals at the given sizes and
durations: a sweep has few of either, and drawing points would lose some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from tune.analysis.scaling_law import MAX_EXPONENT, fit_law, fit_replicates, log_loss

CONFIDENCE = 0.95
MIN_LEVELS = 3
"""Different sizes, and different durations, that a constant and a power need."""
MIN_STEP = 1.1
"""Ratio of two sizes, or durations, that count as different."""
MIN_RANGE = 4.0
"""Largest to smallest size, and duration, up to MIN_STEP: the last batch of each run goes a little beyond its end."""
MAX_EXPONENT_RANGE = 3.0
"""Largest to smallest exponent in its interval, for a statement."""
MAX_RESIDUAL = 0.05
"""Root mean square of log L, for a statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPoint:
    """The end of one full schedule."""

    num_parameters: float
    num_targets: float
    """Targets trained on."""
    loss: float
    """`val_loss` on the evaluation frames, positive; a mean over seeds, or one point for each seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldOut:
    """A check: the runs of the largest size or duration, predicted from the others."""

    num_points: int
    """Held out."""
    mean_error: float
    """Mean relative error of the predicted losses; positive: predicted too high."""
    num_inside: int
    """Points inside the 95 % interval of their prediction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingFit:
    """The fit. Where `no_statement` is not None, it is the reason why nothing may be concluded from it."""

    irreducible_loss: Interval
    """E."""
    parameter_coefficient: Interval
    """A."""
    parameter_exponent: Interval
    """a."""
    target_coefficient: Interval
    """B."""
    target_exponent: Interval
    """b."""
    replicates: np.ndarray
    """float64 (B, 5): log E, log A, a, log B, b of each bootstrap replicate."""
    residual: float
    """Root mean square of log L - log of the fit, corrected for the five parameters."""
    hold_out: HoldOut | None
    """None if too few points would be left."""
    no_statement: str | None
    num_points: int
    num_sizes: int
    """Different numbers of parameters."""
    num_durations: int
    """Different numbers of targets."""
    size_range: tuple[float, float]
    """Smallest and largest number of parameters."""
    target_range: tuple[float, float]
    """Smallest and largest number of targets."""

    def loss_at(self, num_parameters: float, num_targets: float) -> Interval:
        """The law's loss, without the scatter of single runs."""
        place = np.log([num_parameters]), np.log([num_targets])
        replicates = np.exp(log_loss(self.replicates, *place)[:, 0])
        return interval_of(float(np.exp(log_loss(self.estimate, *place)[0])), replicates)

    @property
    def estimate(self) -> np.ndarray:
        """float64 (5,), like a row of `replicates`."""
        return np.array(
            [
                np.log(max(self.irreducible_loss.value, 1e-300)),
                np.log(max(self.parameter_coefficient.value, 1e-300)),
                self.parameter_exponent.value,
                np.log(max(self.target_coefficient.value, 1e-300)),
                self.target_exponent.value,
            ]
        )


def fit_scaling(points: Sequence[ScalingPoint], *, num_replicates: int = 200, random_seed: int = 0) -> ScalingFit:
    """Fit the law.

    Args:
        points: ends of full schedules only: a run that would have trained on has a worse loss than one whose schedule
            ended there.
    Returns:
        The fit; with too few sizes or durations it has the reason in `no_statement`, and NaN for numbers.
    """
    sizes, durations, losses = (
        np.array([getattr(point, name) for point in points], np.float64)
        for name in ("num_parameters", "num_targets", "loss")
    )
    nan = Interval(value=np.nan, low=np.nan, high=np.nan)
    fit = ScalingFit(
        irreducible_loss=nan,
        parameter_coefficient=nan,
        parameter_exponent=nan,
        target_coefficient=nan,
        target_exponent=nan,
        replicates=np.empty((0, 5)),
        residual=np.nan,
        hold_out=None,
        no_statement=_design_reason(sizes, durations),
        num_points=len(points),
        num_sizes=_num_levels(sizes),
        num_durations=_num_levels(durations),
        size_range=(float(sizes.min(initial=np.inf)), float(sizes.max(initial=0.0))),
        target_range=(float(durations.min(initial=np.inf)), float(durations.max(initial=0.0))),
    )
    if fit.no_statement is not None:
        return fit
    log_sizes, log_durations, log_losses = np.log(sizes), np.log(durations), np.log(losses)
    rng = np.random.default_rng(random_seed)
    estimate, replicates, scatter = _bootstrap(log_sizes, log_durations, log_losses, num_replicates, rng)
    intervals = [_interval(column, estimate, replicates) for column in range(5)]
    fit = replace(
        fit,
        irreducible_loss=intervals[0],
        parameter_coefficient=intervals[1],
        parameter_exponent=intervals[2],
        target_coefficient=intervals[3],
        target_exponent=intervals[4],
        replicates=replicates,
        residual=float(np.sqrt((scatter**2).mean())),
        hold_out=_hold_out(log_sizes, log_durations, log_losses, num_replicates, rng),
    )
    return replace(fit, no_statement=_fit_reason(fit, float(losses.min())))


def _bootstrap(
    log_sizes: np.ndarray,
    log_durations: np.ndarray,
    log_losses: np.ndarray,
    num_replicates: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fit (5,), replicates with resampled residuals (B, 5), and residuals corrected for the parameters (n,)."""
    num_points = len(log_losses)
    estimate, starts = fit_law(log_sizes, log_durations, log_losses)
    fitted = log_loss(estimate, log_sizes, log_durations)
    scatter = (log_losses - fitted) * np.sqrt(num_points / (num_points - 5))
    few = stats.t.ppf(0.975, num_points - 5) / stats.norm.ppf(0.975)
    drawn = fitted + few * rng.choice(scatter, (num_replicates, num_points))
    return estimate, fit_replicates(log_sizes, log_durations, drawn, np.stack([estimate, *starts[:3]])), scatter


def _num_levels(values: np.ndarray) -> int:
    """Different values; those within MIN_STEP of each other, as when a last batch goes beyond the end, are one."""
    levels: list[float] = []
    for value in np.unique(values):
        if not levels or value > MIN_STEP * levels[-1]:
            levels.append(float(value))
    return len(levels)


def _design_reason(sizes: np.ndarray, durations: np.ndarray) -> str | None:
    """Why sizes and durations cannot identify the law."""
    for values, name in ((sizes, "model sizes"), (durations, "numbers of training targets")):
        if _num_levels(values) < MIN_LEVELS:
            return f"the number of different {name} is {_num_levels(values)}; a constant and a power need {MIN_LEVELS}"
        if values.max() / values.min() < MIN_RANGE / MIN_STEP:
            return (
                f"the {name} span only a factor of {values.max() / values.min():.1f}; at least {MIN_RANGE:g} is needed"
            )
    if len(sizes) < 8:
        return f"{len(sizes)} runs are too few for the five parameters of the law; at least 8 are needed"
    return None


def _fit_reason(fit: ScalingFit, smallest_loss: float) -> str | None:
    """Why the fit allows no statement."""
    if fit.residual > MAX_RESIDUAL:
        return f"the law does not describe the losses: they scatter by {100 * fit.residual:.1f} % around it"
    for exponent, name in ((fit.parameter_exponent, "parameters"), (fit.target_exponent, "targets")):
        if exponent.high > MAX_EXPONENT_RANGE * exponent.low or exponent.high > 0.99 * MAX_EXPONENT:
            return (
                f"the exponent of the {name} is not identified, its interval is {exponent.low:.2f} to "
                f"{exponent.high:.2f}; more sizes and durations, further apart, are needed"
            )
    width = fit.irreducible_loss.high - fit.irreducible_loss.low
    if width > 0.5 * smallest_loss:
        return (
            f"the irreducible loss is not identified: its interval is {fit.irreducible_loss.low:.3g} to "
            f"{fit.irreducible_loss.high:.3g}; longer runs of larger models are needed"
        )
    held_out = fit.hold_out
    if held_out is not None and held_out.num_inside < 0.5 * held_out.num_points:
        return (
            f"the largest runs are predicted wrongly from the others ({100 * held_out.mean_error:+.1f} % on average, "
            f"{held_out.num_inside} of {held_out.num_points} inside their interval)"
        )
    return None


def _hold_out(
    log_sizes: np.ndarray,
    log_durations: np.ndarray,
    log_losses: np.ndarray,
    num_replicates: int,
    rng: np.random.Generator,
) -> HoldOut | None:
    """Fit without the largest fifth of the runs by FLOPs, which are about size times duration, and predict them."""
    order = np.argsort(log_sizes + log_durations, kind="stable")
    rest, largest = np.split(order, [len(order) - max(1, len(order) // 5)])
    x, y, z = log_sizes[rest], log_durations[rest], log_losses[rest]
    if _design_reason(np.exp(x), np.exp(y)) is not None:
        return None
    estimate, replicates, scatter = _bootstrap(x, y, z, num_replicates, rng)
    noise = rng.choice(scatter, (num_replicates, len(largest)))
    predicted = log_loss(replicates, log_sizes[largest], log_durations[largest]) + noise
    low, high = np.quantile(predicted, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    errors = np.expm1(log_loss(estimate, log_sizes[largest], log_durations[largest]) - log_losses[largest])
    inside = (low <= log_losses[largest]) & (log_losses[largest] <= high)
    return HoldOut(num_points=len(largest), mean_error=float(errors.mean()), num_inside=int(inside.sum()))


def _interval(column: int, estimate: np.ndarray, replicates: np.ndarray) -> Interval:
    """Of a parameter; the coefficients and E are fitted as logarithms."""
    transform = np.exp if column in (0, 1, 3) else np.asarray
    return interval_of(float(transform(estimate[column])), transform(replicates[:, column]))


def interval_of(value: float, replicates: np.ndarray) -> Interval:
    """An estimate with the central 95 % of its replicates."""
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value=value, low=float(low), high=float(high))
