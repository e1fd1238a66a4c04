"""Variance of means over seeds and games, and intervals from it.

The scores form a crossed design: each seed's network is evaluated on each game. The variance of a difference has a part
of the games, a part of the seeds, and one of their interaction, which both of the one-way estimates contain and which
is subtracted once (Cameron, Gelbach and Miller 2011; Owen 2007 for the crossed bootstrap). Each part gets the quantile
of its own degrees of freedom, and the half-widths are added in squares (Zou and Donner 2008), because there are
hundreds of games but few seeds.

Shape legend: n = scores or differences of scores, R = seeds, G = games, B = bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

_CHUNK = 500
"""Replicates at once, to bound the memory of the games' weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VarianceParts:
    """Of n means over seeds; arrays are float64 (n,)."""

    game: np.ndarray
    """Over games, with the interaction of games and seeds."""
    interaction: np.ndarray
    """The part of the interaction."""
    seed: np.ndarray
    """Over seeds, with the interaction; 0 if there is one seed everywhere."""
    seed_freedom: np.ndarray
    """Degrees of freedom of the latter."""


def variance_parts(values: np.ndarray, influence: np.ndarray, num_games: int | np.ndarray, most: int) -> VarianceParts:
    """Variance of the mean of each row over its seeds.

    Args:
        values: (n, R), NaN where there is none.
        influence: (n, R, G), of the games on them; 0 where there is none.
        num_games: of all rows, or of each.
        most: independent rows, for `moderated`.
    """
    num_seeds = np.isfinite(values).sum(1)
    correction = num_games / np.maximum(1, num_games - 1)
    game = ((influence.sum(1) / num_seeds[:, None]) ** 2).sum(1) * correction
    within = (influence**2).sum((1, 2)) * correction
    interaction = np.maximum(within - num_seeds * game, 0.0) / np.maximum(num_seeds * (num_seeds - 1), 1)
    seed, freedom = np.zeros_like(game), num_seeds - 1.0
    if num_seeds.max() > 1:
        squares = np.nansum((values - np.nanmean(values, 1, keepdims=True)) ** 2, 1)
        own = np.where(freedom > 0, squares / np.maximum(freedom, 1), np.nan)
        variance, freedom = moderated(own, freedom, most * freedom.max())
        known = np.isfinite(variance)
        freedom = np.where(known, freedom, freedom.max())
        seed = np.where(known, variance, np.nanmean(own)) / num_seeds
    return VarianceParts(game=game, interaction=interaction, seed=seed, seed_freedom=freedom)


def half_width(level: float, parts: VarianceParts, num_games: int | np.ndarray) -> np.ndarray:
    """Half-widths of two-sided intervals, at least those over games alone: float64 (n,).

    Args:
        level: two-sided error, 0.05 for 95 %.
    """
    game_quantile = stats.t.isf(level / 2, np.maximum(1, num_games - 1))
    seed_quantile = stats.t.isf(level / 2, np.maximum(parts.seed_freedom, 1e-9))
    seed_square = np.zeros_like(parts.seed)
    np.multiply(seed_quantile**2, parts.seed, out=seed_square, where=parts.seed > 0)
    squares = seed_square + game_quantile**2 * np.maximum(parts.game - parts.interaction, 0.0)
    return np.sqrt(np.maximum(squares, game_quantile**2 * parts.game))


def simultaneous_level(
    parts: VarianceParts, games_part: np.ndarray, seeds_part: np.ndarray, confidence: float
) -> float:
    """Two-sided error of each of n intervals such that that of all together is 1 - confidence, by max-t.

    Args:
        games_part: (n, B), bootstrap replicates over games.
        seeds_part: (n, B), standard normal, with the correlations that the seeds' part is taken to have.
    """
    games_part = games_part / np.maximum(games_part.std(1, keepdims=True), 1e-300)
    game = np.maximum(parts.game - parts.interaction, 0.0)
    share = np.divide(parts.seed, game + parts.seed, out=np.zeros_like(game), where=parts.seed > 0)[:, None]
    if share.any():
        games_part = np.sqrt(1 - share) * games_part + np.sqrt(share) * seeds_part
    return float(2 * stats.norm.sf(np.quantile(np.abs(games_part).max(0), confidence)))


def moderated(variance: np.ndarray, freedom: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Variances over few seeds, each drawn towards those of others of its kind (Smyth 2004, section 6.2).

    How far follows from how much they differ: hardly, if they do; to their mean, if not. One with a single seed takes
    that of its kind.

    Args:
        variance: (n,), of one seed; NaN without degrees of freedom.
        freedom: (n,), their degrees of freedom.
        most: degrees of freedom of all of them together, an upper limit for those of each after moderation.
    Returns:
        Both after moderation; NaN where nothing is known.
    """
    known = (freedom > 0) & (variance > 0)
    if not known.any():
        return variance, freedom
    prior_freedom, prior = _prior_of_variances(variance[known], freedom[known])
    total = np.minimum(freedom + prior_freedom, np.maximum(freedom, most))
    weight = np.divide(freedom, total, out=np.zeros_like(total), where=total > 0)
    pooled = weight * np.nan_to_num(variance) + (1 - weight) * prior
    return np.where(total > 0, pooled, np.nan), total


def _prior_of_variances(variance: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and value of the scaled inverse chi-squared prior, by the moments of the log variances."""
    half = freedom / 2
    logs = np.log(variance) - special.digamma(half) + np.log(half)
    excess = (logs.var(ddof=1) if len(logs) > 1 else np.inf) - special.polygamma(1, half).mean()
    if not np.isfinite(excess):
        return 0.0, float(variance.mean())
    if excess <= 1e-6:
        return np.inf, float(np.average(variance, weights=freedom))
    prior_half = float(np.exp(optimize.brentq(lambda x: special.polygamma(1, np.exp(x)) - excess, -20, 20)))
    return 2 * prior_half, float(np.exp(logs.mean() + special.digamma(prior_half) - np.log(prior_half)))


def resampled(influence_CG: np.ndarray, num_replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over games that are drawn with replacement: (C, B)."""
    num_games = influence_CG.shape[1]
    parts = []
    for first in range(0, num_replicates, _CHUNK):
        size = min(_CHUNK, num_replicates - first)
        drawn = rng.integers(0, num_games, (size, num_games)) + num_games * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * num_games).reshape(size, num_games)
        parts.append(influence_CG @ weights.T)
    return np.concatenate(parts, axis=1)
