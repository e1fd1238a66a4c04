"""Differences between predictors on the same games, with intervals: slices of an evaluation, two trials at a rung."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wm.config.run_config import MetricName
from wm.evaluation.game_sums import GameSums

CONFIDENCE = 0.95


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
        None if the games that both have hold no event (`change_acc`), or fewer than two games.
    Raises:
        UserError: evaluated on different frames, or a metric that is not reported.
    """
    raise NotImplementedError


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
        pairs: label -> (sums of A by seed, sums of B by seed), of the slice's frames alone. Paired by the seeds and games
            that both have; labels may cover different games.
    Returns:
        Label -> difference; labels without events or with fewer than two games are left out.
    Raises:
        UserError: as `paired_difference`.
    """
    raise NotImplementedError
