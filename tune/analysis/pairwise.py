"""Differences of all pairs of cells, with their variance over games and over seeds, and simultaneous intervals.

Shape legend: C = cells, R = seeds, G = games, B = bootstrap replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tune.analysis.scores import Scores
from tune.analysis.variance import VarianceParts, half_width, moderated, resampled, simultaneous_level


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
    """Of the difference, over seeds, with the interaction; 0 if all cells have one seed."""
    seed_freedom: np.ndarray
    """Degrees of freedom of the latter."""
    num_seeds: np.ndarray
    """int64, common seeds."""
    num_games: int
    replicates: np.ndarray
    """float64 (C, B), mean score of each cell with the games drawn again, minus the mean score."""
    seed_replicates: np.ndarray
    """float64 (C, B), independent and standard normal."""

    def variance_parts(self, pairs: tuple[np.ndarray, ...]) -> VarianceParts:
        """The variances of some pairs.

        Args:
            pairs: index into the arrays (C, C).
        """
        return VarianceParts(
            game=self.game_variance[pairs],
            interaction=self.interaction_variance[pairs],
            seed=self.seed_variance[pairs],
            seed_freedom=self.seed_freedom[pairs],
        )

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
            parts = self.variance_parts(pair)
            games_part = self.replicates[pair[0]] - self.replicates[pair[1]]
            seeds_part = (self.seed_replicates[pair[0]] - self.seed_replicates[pair[1]]) / np.sqrt(2)
            widths[different] = half_width(
                simultaneous_level(parts, games_part, seeds_part, confidence), parts, self.num_games
            )
        return widths

    def scaled(self, games: float = 1.0, seeds: float = 1.0) -> Pairwise:
        """What is to be expected of more evidence: the same differences with so many times the games and seeds."""
        interaction = self.interaction_variance / (games * seeds)
        alone = np.maximum(self.game_variance - self.interaction_variance, 0.0) / games
        more_freedom = np.where(
            self.num_seeds > 1, (self.num_seeds * seeds - 1) / np.maximum(self.num_seeds - 1, 1), seeds
        )
        seed_alone = np.maximum(self.seed_variance - self.interaction_variance, 0.0) / seeds
        return replace(
            self,
            game_variance=alone + interaction,
            interaction_variance=interaction,
            seed_variance=np.where(self.seed_variance > 0, seed_alone + interaction, 0.0),
            seed_freedom=self.seed_freedom * more_freedom,
            num_seeds=np.round(self.num_seeds * seeds).astype(np.int64),
            num_games=round(self.num_games * games),
        )


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
        unknown = ~np.isfinite(variance_of_one)
        fallback, fallback_freedom = _variance_of_independent(scores)
        freedom = np.where(unknown, fallback_freedom, freedom)
        seed_variance = np.where(unknown, fallback, variance_of_one) / divisor
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
        replicates=resampled(mean_influence, num_replicates, rng),
        seed_replicates=rng.standard_normal((num_cells, num_replicates)),
    )


def _variance_of_independent(scores: Scores) -> tuple[float, float]:
    """Variance of one seed's difference of two cells if it is not paired, and its degrees of freedom.

    For pairs of a kind of which none has two seeds in common, as in a sweep that has not ended.
    """
    freedom = np.maximum(scores.present.sum(1) - 1.0, 0.0)
    mean = np.nanmean(scores.values, 1, keepdims=True)
    squares = np.nansum((scores.values - mean) ** 2)
    return 2 * float(squares / freedom.sum()), float(freedom.max())


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
