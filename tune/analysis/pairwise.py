"""Differences of all pairs of cells, with their variance over games and over seeds, and simultaneous intervals.

The scores form a crossed design: each seed's network is evaluated on each game. The variance of a difference has
a part of the games, a part of the seeds, and one of their interaction, which both of the one-way estimates contain and
which is subtracted once (Cameron, Gelbach and Miller 2011; Owen 2007 for the crossed bootstrap). Each part gets the
quantile of its own degrees of freedom, and the half-widths are added in squares (Zou and Donner 2008), because there
are hundreds of games but few seeds.

Shape legend: C = cells, R = seeds, G = games, B = bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special, stats

from tune.analysis.scores import Scores

_CHUNK = 500
"""Replicates at once, to bound the memory of the games' weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairwise:
    """All pairs of cells, over the seeds that both have. Arrays are float64 (C, C) unless stated."""

    difference: np.ndarray
    """Row minus column; NaN without a common seed."""
    game_variance: np.ndarray
    """Of the difference, over games, with the interaction of games and seeds."""
    interaction_variance: np.ndarray
    """The part of the interaction."""
    seed_variance: np.ndarray
    """Of the difference, over seeds, with the interaction; 0 if all cells have one seed, inf if it is unknown."""
    seed_freedom: np.ndarray
    """Degrees of freedom of the latter."""
    num_seeds: np.ndarray
    """int64, common seeds."""
    num_games: int
    replicates: np.ndarray
    """float64 (C, B), mean score of each cell with the games drawn again, minus the mean score."""
    seed_replicates: np.ndarray
    """float64 (C, B), independent and standard normal."""

    def half_widths(self, first: np.ndarray, second: np.ndarray, confidence: float) -> np.ndarray:
        """Half-widths of simultaneous two-sided intervals of the differences of some pairs.

        Max-t over the pairs: the games' part has the correlations of the bootstrap; few seeds do not tell theirs, which
        is taken to be that of independent cells (1/2 between pairs with a common cell, as Dunnett 1955).

        Args:
            first: int64 (n,), cells.
            second: int64 (n,), cells.
        Returns:
            float64 (n,), 0 for a cell and itself.
        """
        widths = np.zeros(len(first))
        different = first != second
        pair = first[different], second[different]
        if different.any():
            widths[different] = half_width(
                self._level(pair, confidence),
                self.game_variance[pair],
                self.interaction_variance[pair],
                self.seed_variance[pair],
                self.seed_freedom[pair],
                self.num_games,
            )
        return widths

    def _level(self, pair: tuple[np.ndarray, np.ndarray], confidence: float) -> float:
        """Two-sided error of each pair such that that of all together is 1 - confidence."""
        first, second = pair
        games_part = self.replicates[first] - self.replicates[second]
        games_part /= np.maximum(games_part.std(1, keepdims=True), 1e-300)
        seed = self.seed_variance[pair]
        seed = np.where(np.isfinite(seed), seed, 0.0)
        game = np.maximum(self.game_variance[pair] - self.interaction_variance[pair], 0.0)
        share = np.divide(seed, game + seed, out=np.zeros_like(seed), where=seed > 0)[:, None]
        if share.any():
            seeds_part = (self.seed_replicates[first] - self.seed_replicates[second]) / np.sqrt(2)
            games_part = np.sqrt(1 - share) * games_part + np.sqrt(share) * seeds_part
        return float(2 * stats.norm.sf(np.quantile(np.abs(games_part).max(0), confidence)))

    def scaled(self, games: float = 1.0, seeds: float = 1.0) -> Pairwise:
        """What is to be expected of more evidence: the same differences with so many times the games and seeds."""
        interaction = self.interaction_variance / (games * seeds)
        alone = np.maximum(self.game_variance - self.interaction_variance, 0.0) / games
        seed_alone = np.maximum(self.seed_variance - self.interaction_variance, 0.0) / seeds
        return replace(
            self,
            game_variance=alone + interaction,
            interaction_variance=interaction,
            seed_variance=np.where(self.seed_variance > 0, seed_alone + interaction, 0.0),
            seed_freedom=self.seed_freedom * (self.num_seeds * seeds - 1) / np.maximum(self.num_seeds - 1, 1),
            num_seeds=np.round(self.num_seeds * seeds).astype(np.int64),
            num_games=round(self.num_games * games),
        )


def half_width(
    level: float,
    game: np.ndarray,
    interaction: np.ndarray,
    seed: np.ndarray,
    seed_freedom: np.ndarray,
    num_games: int,
) -> np.ndarray:
    """Half-width of a two-sided interval from the parts of the variance, as in `Pairwise`; at least that over games.

    Args:
        level: two-sided error, 0.05 for 95 %.
    """
    game_quantile = stats.t.isf(level / 2, max(1, num_games - 1))
    seed_quantile = stats.t.isf(level / 2, np.maximum(seed_freedom, 1e-9))
    seed_square = np.zeros_like(seed)
    np.multiply(seed_quantile**2, seed, out=seed_square, where=seed > 0)
    squares = seed_square + game_quantile**2 * np.maximum(game - interaction, 0.0)
    return np.sqrt(np.maximum(squares, game_quantile**2 * game))


def compare_pairs(scores: Scores, *, num_replicates: int, random_seed: int) -> Pairwise:
    """Differences and variances of all pairs of cells."""
    present = scores.present.astype(np.float64)
    values = np.where(present > 0, scores.values, 0.0)
    influence = scores.influence
    num_cells, num_seeds, num_games = influence.shape
    common = present @ present.T
    divisor = np.where(common > 0, common, np.nan)
    by_cell = values @ present.T
    difference = (by_cell - by_cell.T) / divisor

    flat = influence.reshape(num_cells * num_seeds, num_games)
    products = (flat @ flat.T).reshape(num_cells, num_seeds, num_cells, num_seeds) * (num_games / max(1, num_games - 1))
    both = present[:, None, :] * present[None, :, :]
    game = np.zeros((num_cells, num_cells))
    within = np.zeros_like(game)
    for r in range(num_seeds):
        for q in range(num_seeds):
            own = np.diag(products[:, r, :, q])
            cross = products[:, r, :, q]
            squares = (own[:, None] + own[None, :] - cross - cross.T) * both[:, :, r] * both[:, :, q]
            game += squares
            within += squares if r == q else 0.0
    game /= divisor**2
    interaction = np.maximum(within - common * game, 0.0) / np.maximum(common * (common - 1), 1)

    squares_of_values = values**2 @ present.T
    sum_of_squares = squares_of_values + squares_of_values.T - 2 * values @ values.T
    sum_of_squares -= common * np.nan_to_num(difference) ** 2
    variance_of_one = np.where(common > 1, np.maximum(sum_of_squares, 0.0) / np.maximum(common - 1, 1), np.nan)
    seed_variance, freedom = np.zeros_like(game), np.zeros_like(game)
    if common.max() > 1:
        variance_of_one, freedom = _moderated_pairs(scores, variance_of_one, np.maximum(common - 1, 0))
        seed_variance = variance_of_one / divisor
        seed_variance = np.where(np.isfinite(seed_variance), seed_variance, np.inf)
    rng = np.random.default_rng(random_seed)
    mean_influence = influence.sum(1) / np.maximum(present.sum(1), 1)[:, None]
    return Pairwise(
        difference=difference,
        game_variance=np.maximum(game, 0.0),
        interaction_variance=interaction,
        seed_variance=seed_variance,
        seed_freedom=freedom,
        num_seeds=common.astype(np.int64),
        num_games=num_games,
        replicates=_replicates(mean_influence, num_replicates, rng),
        seed_replicates=rng.standard_normal((num_cells, num_replicates)),
    )


def _moderated_pairs(scores: Scores, variance: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`moderated` for the pairs (C, C) of one setting, whose networks may be the same, and those of two."""
    settings = np.array([setting for setting, _ in scores.cells])
    same = settings[:, None] == settings[None, :]
    num_settings = len(set(settings.tolist()))
    for kind, num_independent in ((same, len(settings) - num_settings), (~same, num_settings - 1)):
        upper = np.nonzero(np.triu(kind, 1))
        if len(upper[0]):
            part, part_freedom = moderated(variance[upper], freedom[upper], num_independent * freedom.max())
            for rows, columns in (upper, upper[::-1]):
                variance[rows, columns], freedom[rows, columns] = part, part_freedom
    return variance, freedom


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


def _replicates(influence_CG: np.ndarray, num_replicates: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over games that are drawn with replacement: (C, B)."""
    num_games = influence_CG.shape[1]
    parts = []
    for first in range(0, num_replicates, _CHUNK):
        size = min(_CHUNK, num_replicates - first)
        drawn = rng.integers(0, num_games, (size, num_games)) + num_games * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * num_games).reshape(size, num_games)
        parts.append(influence_CG @ weights.T)
    return np.concatenate(parts, axis=1)
