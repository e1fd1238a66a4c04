"""The difference of two settings at a rung, until `tune.analysis.paired` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wm.config.run_config import MetricName
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import val_loss_of
from wm.objective.weights import VAL_LOSS_WEIGHTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much better A is than B."""

    difference: float
    low: float
    high: float
    num_events: int
    num_games: int


def paired_differences(
    pairs: Mapping[str, tuple[Mapping[int, GameSums], Mapping[int, GameSums]]],
    metric: MetricName,
    *,
    confidence: float,
) -> dict[str, Difference]:
    """Differences by label."""
    found = {}
    for label, (a, b) in pairs.items():
        seeds = sorted(set(a) & set(b))
        num_games = len(a[seeds[0]])
        generator = np.random.default_rng(0)
        games = np.concatenate(
            [np.ones((1, num_games)), generator.multinomial(num_games, np.full(num_games, 1 / num_games), 1_000)]
        )
        weights = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), 1_001) / len(seeds)
        weights[0] = 1 / len(seeds)
        by_seed = np.stack([_value(a[seed], games, metric) - _value(b[seed], games, metric) for seed in seeds], 1)
        difference = (by_seed * weights).sum(1) * (1 if metric.endswith("_acc") else -1)
        low, high = np.nanquantile(difference[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
        events = int(a[seeds[0]].num_changes.sum())
        found[label] = Difference(
            difference=float(difference[0]), low=float(low), high=float(high), num_events=events, num_games=num_games
        )
    return found


def _value(sums: GameSums, games: np.ndarray, metric: MetricName) -> np.ndarray:
    if metric == "val_loss":
        totals, counts = sums.loss_totals, sums.loss_counts
        return val_loss_of({name: (games @ totals[name], games @ counts[name]) for name in VAL_LOSS_WEIGHTS})
    top, bottom = {
        "change_acc": (sums.num_changes_right, sums.num_changes),
        "action_acc": (sums.num_right, sums.num_pairs),
        "pos_mae": (sums.position_error, sums.num_pairs),
    }[metric]
    return (games @ top) / (games @ bottom)
