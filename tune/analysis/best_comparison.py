"""Multiple comparisons with the best (Hsu 1984; Edwards and Hsu 1983): the loss to a best that is not known.

If the best cell were known, its differences to all others would have simultaneous intervals, Dunnett's with the best
as control. The intervals here are the union of these over all cells that may be the best, so that they hold whichever
it is: neither choosing the reference nor choosing the setting of a K on the same data makes them optimistic.

Shape legend: C = cells, R = seeds, G = games, H = splits of the games.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune.analysis.pairwise import Pairwise
from tune.analysis.scores import Cell, Scores
from tune.analysis.variance import half_width, variance_parts
from wm.evaluation.metrics import Context

_NUM_SPLITS = 20
"""Random halves of the games for `held_out_score`."""


def loss_intervals(
    pairs: Pairwise, cells: Sequence[Cell], reference: Context | None, confidence: float
) -> dict[Context, tuple[float, float]]:
    """Simultaneous intervals of the loss of each K: value of the reference's best cell minus that of the K's best cell.

    Args:
        reference: a K; None: the best of all.
    Returns:
        K -> (low, high), in units of the score; (0, 0) for a named reference.
    """
    rows_of: dict[Context, np.ndarray] = {k: _rows(cells, 1, k) for k in dict.fromkeys(k for _, k in cells)}
    possible = rows_of[reference] if reference is not None else np.arange(len(cells))
    beaten = _surely_beaten(pairs, possible, confidence)
    possible = possible if beaten.all() else possible[~beaten]
    by_best = [_losses(pairs, cells, int(best), confidence) for best in possible]
    # Pairs on different seeds may contradict each other; then any cell may be the best.
    by_best = [losses for losses in by_best if losses.highest[possible].min() >= 0] or by_best
    low = {k: min(float(losses.lowest[rows].min()) for losses in by_best) for k, rows in rows_of.items()}
    high = {k: max(float(losses.highest[rows].min()) for losses in by_best) for k, rows in rows_of.items()}
    if reference is None:
        return {k: (max(0.0, low[k]), max(0.0, high[k])) for k in rows_of}
    return {k: (0.0, 0.0) if k == reference else (low[k], high[k]) for k in rows_of}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Losses:
    """Simultaneous bounds of the losses of all cells, if one of them is the best; float64 (C,)."""

    lowest: np.ndarray
    highest: np.ndarray


def _losses(pairs: Pairwise, cells: Sequence[Cell], best: int, confidence: float) -> _Losses:
    """Each cell is compared with the best one, and with the cell of its own setting at the K of the best.

    The value of the latter is at most that of the best, and networks of one setting differ less by chance.
    """
    num_cells = len(cells)
    at_best_context = {setting: row for row, (setting, k) in enumerate(cells) if k == cells[best][1]}
    own = np.array([at_best_context.get(setting, -1) for setting, _ in cells])
    with_own = np.flatnonzero((own >= 0) & (own != best))
    first = np.concatenate([np.full(num_cells, best), own[with_own]])
    second = np.concatenate([np.arange(num_cells), with_own])
    widths, losses = pairs.half_widths(first, second, confidence), pairs.difference[first, second]
    lowest, highest = losses - widths, losses + widths
    lowest[with_own] = np.maximum(lowest[with_own], lowest[num_cells:])
    return _Losses(lowest=lowest[:num_cells], highest=highest[:num_cells])


def _rows(cells: Sequence[Cell], part: int, value: str | int) -> np.ndarray:
    """Cells with a value of setting (part 0) or K (part 1): int64."""
    return np.array([row for row, cell in enumerate(cells) if cell[part] == value])


def _surely_beaten(pairs: Pairwise, possible: np.ndarray, confidence: float) -> np.ndarray:
    """Cells that are not the best even by Bonferroni's wider intervals: bool, like `possible`."""
    part = np.ix_(possible, possible)
    level = (1 - confidence) / max(1, len(pairs.difference) - 1)
    widths = half_width(level, pairs.variance_parts(part), pairs.num_games)
    np.fill_diagonal(widths, 0.0)
    return np.any(pairs.difference[part] + widths < 0, axis=1)


def score_half_widths(scores: Scores, confidence: float) -> np.ndarray:
    """Half-widths of the interval of each cell's mean over its seeds: float64 (C,)."""
    num_games = scores.influence.shape[2]
    num_settings = len({setting for setting, _ in scores.cells})
    parts = variance_parts(scores.values, scores.influence, num_games, num_settings)
    return half_width(1 - confidence, parts, num_games)


def held_out_score(scores: Scores, rows: np.ndarray, random_seed: int) -> float:
    """Score of the best of some cells, chosen on other games and seeds than it is evaluated on.

    The best of many on the data that chose it is optimistic. Here each seed is left out in turn, with a random half of
    the games; the cell that is best on the other seeds and the other half counts with its score on what was left out.
    With one seed only the games are left out.

    Args:
        rows: int64, cells.
    """
    values_cR, present_cR = scores.values[rows], scores.present[rows]
    if len(rows) == 1:
        return float(np.nanmean(values_cR))
    num_seeds, num_games = scores.values.shape[1], scores.influence.shape[2]
    rng = np.random.default_rng(random_seed)
    halves_GH = np.stack([rng.permutation(num_games) < num_games // 2 for _ in range(_NUM_SPLITS)], axis=1)
    halves_GH = np.concatenate([halves_GH, ~halves_GH], axis=1)
    sums_cRH = scores.influence[rows] @ halves_GH
    shares_H = halves_GH.mean(0)
    inside = values_cR[:, :, None] + sums_cRH / shares_H
    outside = values_cR[:, :, None] - sums_cRH / (1 - shares_H)
    results = []
    for seed in range(num_seeds):
        here = present_cR[:, seed]
        others = present_cR.copy()
        others[:, seed] &= num_seeds == 1
        usable = np.flatnonzero(here & others.any(1))
        if len(usable):
            counted = np.where(others[usable][:, :, None], inside[usable], 0.0)
            judged = counted.sum(1) / others[usable].sum(1)[:, None]
            chosen = usable[judged.argmax(0)]
            results.append(outside[chosen, seed, np.arange(halves_GH.shape[1])])
    if not results:
        return float(np.nanmean(values_cR, 1).max())
    return float(np.mean(results))
