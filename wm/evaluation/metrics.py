"""Judgements of single (frame, player) pairs -> metrics with intervals. Plain numpy; no model, no Ray.

Shape legend: M = judged frames, P = players (2), G = games.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wm.objective.weights import VAL_LOSS_WEIGHTS

NUM_RESAMPLES = 1_000
INTERVAL = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a predictor said of the judged frames, and what was true."""

    games: np.ndarray
    """int64 (M,), index of the game."""
    previous_action: np.ndarray
    """int64 (M, P), in the frame before."""
    true_action: np.ndarray
    """int64 (M, P)."""
    said_action: np.ndarray
    """int64 (M, P)."""
    position_error: np.ndarray
    """float64 (M, P), mean of |error| of the x and y deltas, game units."""
    loss_totals: dict[str, np.ndarray]
    """Part of `val_loss` -> float64 (M,), sums over valid entries; empty for a predictor without probabilities."""
    loss_counts: dict[str, np.ndarray]
    """The same, numbers of valid entries."""

    def __len__(self) -> int:
        return len(self.games)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A value with the interval that holds it in 95 of 100 resamplings of the games; None without data."""

    value: float | None
    low: float | None
    high: float | None

    def plain(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def concatenate(judgements: list[Judgement]) -> Judgement:
    """Several parts as one."""

    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in judgements])

    def join_parts(name: str) -> dict[str, np.ndarray]:
        keys = getattr(judgements[0], name)
        return {key: np.concatenate([getattr(part, name)[key] for part in judgements]) for key in keys}

    names = ("games", "previous_action", "true_action", "said_action", "position_error")
    return Judgement(
        **{name: join(name) for name in names},
        loss_totals=join_parts("loss_totals"),
        loss_counts=join_parts("loss_counts"),
    )


def metrics_of(
    judgement: Judgement, chosen_MP: np.ndarray | None = None, resampling: Resampling | None = None
) -> dict[str, Metric]:
    """All metrics over the chosen pairs.

    Args:
        chosen_MP: bool (M, P), pairs to count; None is all, and only then `val_loss` and player 0 are given.
        resampling: of the judgement's games, where several calls share one.
    """
    everything = chosen_MP is None
    chosen = np.ones(judgement.true_action.shape, dtype=bool) if chosen_MP is None else chosen_MP
    resampling = resampling or Resampling(judgement.games)
    result = _pair_metrics(judgement, chosen, resampling)
    if everything:
        first_player = np.zeros_like(chosen)
        first_player[:, 0] = True
        result |= {f"p0_{name}": metric for name, metric in _pair_metrics(judgement, first_player, resampling).items()}
        if judgement.loss_totals:
            result["val_loss"] = _val_loss(judgement, resampling)
    return result


def _pair_metrics(judgement: Judgement, chosen: np.ndarray, resampling: Resampling) -> dict[str, Metric]:
    right = judgement.said_action == judgement.true_action
    changed = (judgement.true_action != judgement.previous_action) & chosen
    return {
        "action_acc": resampling.ratio(right & chosen, chosen),
        "change_acc": resampling.ratio(right & changed, changed),
        "pos_mae": resampling.ratio(judgement.position_error * chosen, chosen),
    }


def _val_loss(judgement: Judgement, resampling: Resampling) -> Metric:
    """The weighted sum of the parts, each a mean over valid entries."""
    total = np.zeros(NUM_RESAMPLES + 1)
    for name, weight in VAL_LOSS_WEIGHTS.items():
        means = resampling.ratios(judgement.loss_totals[name], judgement.loss_counts[name])
        total += weight * np.nan_to_num(means)  # a part that no judged game has says nothing
    return _metric(total)


class Resampling:
    """Ratios of sums over games: as they are, and over games drawn again with replacement."""

    def __init__(self, games: np.ndarray, seed: int = 0) -> None:
        present, self._game_of_row = np.unique(games, return_inverse=True)
        self._num_games = len(present)
        draws = np.random.default_rng(seed).multinomial(
            self._num_games, np.full(self._num_games, 1 / max(1, self._num_games)), size=NUM_RESAMPLES
        )
        self._weights = np.concatenate([np.ones((1, self._num_games)), draws])

    def ratios(self, above: np.ndarray, below: np.ndarray) -> np.ndarray:
        """(1 + NUM_RESAMPLES,): the first is that of the data itself; nan where nothing is below."""
        sums = [
            self._weights
            @ np.bincount(
                self._game_of_row,
                np.asarray(v, np.float64).reshape(len(self._game_of_row), -1).sum(1),
                self._num_games,
            )
            for v in (above, below)
        ]
        return np.divide(sums[0], sums[1], out=np.full_like(sums[0], np.nan), where=sums[1] > 0)

    def ratio(self, above: np.ndarray, below: np.ndarray) -> Metric:
        return _metric(self.ratios(above, below))


def _metric(values: np.ndarray) -> Metric:
    drawn = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(drawn):
        return Metric(value=None, low=None, high=None)
    low, high = np.quantile(drawn, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Metric(value=float(values[0]), low=float(low), high=float(high))


def slices_of(judgement: Judgement, labels_MP: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Metrics for each label, most frequent first.

    Args:
        labels_MP: int (M, P), index into `names` of each pair.
    Returns:
        name -> {"count": pairs, "metrics": {metric: {value, low, high}}}.
    """
    counts = np.bincount(labels_MP.ravel(), minlength=len(names))
    resampling = Resampling(judgement.games)
    return {
        names[label]: {
            "count": int(counts[label]),
            "metrics": {k: m.plain() for k, m in metrics_of(judgement, labels_MP == label, resampling).items()},
        }
        for label in np.argsort(-counts, kind="stable")
        if counts[label]
    }


def confusions_of(judgement: Judgement, num_actions: int = 12, num_answers: int = 3) -> list[dict[str, Any]]:
    """The actions most often missed at the moment they begin, and what was said instead."""
    changed = judgement.true_action != judgement.previous_action
    truth, said = judgement.true_action[changed], judgement.said_action[changed]
    wrong_counts = np.bincount(truth[truth != said])
    rows = []
    for action in np.argsort(-wrong_counts, kind="stable")[:num_actions]:
        if not wrong_counts[action]:
            break
        answers = np.bincount(said[(truth == action) & (said != action)])
        rows.append(
            {
                "truth": int(action),
                "count": int((truth == action).sum()),
                "right": int(((truth == action) & (said == action)).sum()),
                "predicted": [
                    {"action": int(answer), "count": int(answers[answer])}
                    for answer in np.argsort(-answers, kind="stable")[:num_answers]
                    if answers[answer]
                ],
            }
        )
    return rows
