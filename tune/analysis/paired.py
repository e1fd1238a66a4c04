"""Differences between predictors on the same games, with intervals: slices of an evaluation, two trials at a rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tune.analysis.scores import CommonGames, common_games, score_and_influence
from tune.analysis.variance import half_width, resampled, simultaneous_level, variance_parts
from wm.config.run_config import MetricName
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import SIGN

CONFIDENCE = 0.95
ONE_SIGMA = 0.3173
"""Two-sided error of an interval of one standard error of a normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better A is than B: positive is better for every metric."""

    value_a: float
    value_b: float
    difference: float
    """Units of the metric."""
    low: float
    high: float
    standard_error: float
    """Half-width of the interval of 68.3 % of this difference alone."""
    num_judged: int
    """Evaluation frames."""
    num_events: int
    """Action changes among their (frame, player) pairs."""
    num_games: int
    num_seeds: int
    """With one seed the interval holds over games only: the variation between trainings is unknown."""


def paired_difference(
    a: GameSums, b: GameSums, metric: MetricName = "change_acc", *, confidence: float = CONFIDENCE
) -> Difference | None:
    """A minus B (B minus A for metrics where lower is better), paired by game; the interval is over games.

    Returns:
        None if fewer than two games are common to both, or these hold no event (`change_acc`).
    Raises:
        UserError: evaluated on different frames, or a metric that is not reported.
    """
    return paired_differences({"": ({0: a}, {0: b})}, metric, confidence=confidence).get("")


def paired_differences(
    pairs: Mapping[str, tuple[Mapping[int, GameSums], Mapping[int, GameSums]]],
    metric: MetricName = "change_acc",
    *,
    confidence: float = CONFIDENCE,
    num_replicates: int = 2_000,
    random_seed: int = 0,
) -> dict[str, Difference]:
    """Differences for several labels, with simultaneous intervals over the labels.

    Args:
        pairs: label -> (sums of A by seed, sums of B by seed), of the slice's frames alone. Paired by the seeds and
            games that both have; labels may cover different games.
    Returns:
        Label -> difference; labels with fewer than two games in common or without events are left out.
    Raises:
        UserError: as `paired_difference`.
    """
    found = {label: _paired(label, *pair, metric) for label, pair in pairs.items()}
    labels = [label for label, pair in found.items() if pair is not None]
    known = [pair for pair in found.values() if pair is not None]
    if not known:
        return {}
    seeds = sorted({seed for pair in known for seed in pair.seeds})
    games = np.unique(np.concatenate([pair.games.game_ids for pair in known]))
    values = np.full((len(known), len(seeds)), np.nan)
    influence = np.zeros((len(known), len(seeds), len(games)))
    for row, pair in enumerate(known):
        columns = np.searchsorted(seeds, pair.seeds)
        values[row, columns] = pair.scores_a - pair.scores_b
        influence[row, columns[:, None], np.searchsorted(games, pair.games.game_ids)] = pair.influence
    num_games = np.array([len(pair.games.game_ids) for pair in known])
    parts = variance_parts(values, influence, num_games, len(known))
    level = 1 - confidence
    if len(known) > 1:
        rng = np.random.default_rng(random_seed)
        mean_influence = influence.sum(1) / np.isfinite(values).sum(1)[:, None]
        games_part = resampled(mean_influence, num_replicates, rng)
        level = simultaneous_level(parts, games_part, rng.standard_normal(games_part.shape), confidence)
    widths, normal_widths = half_width(level, parts, num_games), half_width(ONE_SIGMA, parts, num_games)
    sign = SIGN[metric]
    limit = 1.0 if metric.endswith("_acc") else np.inf
    return {
        label: Difference(
            value_a=sign * float(pair.scores_a.mean()),
            value_b=sign * float(pair.scores_b.mean()),
            difference=float(np.nanmean(values[row])),
            low=max(-limit, float(np.nanmean(values[row]) - widths[row])),
            high=min(limit, float(np.nanmean(values[row]) + widths[row])),
            standard_error=float(normal_widths[row]),
            num_judged=pair.num_judged,
            num_events=pair.num_events,
            num_games=len(pair.games.game_ids),
            num_seeds=len(pair.seeds),
        )
        for row, (label, pair) in enumerate(zip(labels, known, strict=True))
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    """Scores of A and B by common seed, and the influence of the common games on their difference."""

    games: CommonGames
    seeds: list[int]
    scores_a: np.ndarray
    """(R,)."""
    scores_b: np.ndarray
    """(R,)."""
    influence: np.ndarray
    """(R, G)."""
    num_judged: int
    num_events: int


def _paired(label: str, a: Mapping[int, GameSums], b: Mapping[int, GameSums], metric: MetricName) -> _Pair | None:
    seeds = sorted(a.keys() & b.keys())
    suffix = f" ({label})" if label else ""
    named = {f"{name}, seed {seed}{suffix}": side[seed] for name, side in (("A", a), ("B", b)) for seed in seeds}
    games = common_games(named, at_least=0) if named else None
    if games is None or len(games.game_ids) < 2:
        return None
    sums = a[seeds[0]]
    rows = games.rows_of(sums)
    if metric == "change_acc" and not sums.num_changes[rows].any():
        return None
    scored = [[score_and_influence(side[seed], games.rows_of(side[seed]), metric) for seed in seeds] for side in (a, b)]
    scores = np.array([[score for score, _ in side] for side in scored])
    influence = np.array([[part for _, part in side] for side in scored])
    return _Pair(
        games=games,
        seeds=seeds,
        scores_a=scores[0],
        scores_b=scores[1],
        influence=influence[0] - influence[1],
        num_judged=int(sums.num_frames[rows].sum()),
        num_events=int(sums.num_changes[rows].sum()),
    )
