"""Evaluation records of (frame, player) pairs -> metrics with bootstrap confidence intervals. NumPy only, no torch.

Shape legend: M = evaluation frames, P = players (2), G = games.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from wm.config.run_config import Context, MetricName
from wm.objective.weights import VAL_LOSS_WEIGHTS

METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""The metrics of a run in the order of all tables: accuracy at action changes, accuracy over all frames, mean absolute
position error in game units, validation loss."""
SIGN: dict[MetricName, int] = {"change_acc": 1, "action_acc": 1, "pos_mae": -1, "val_loss": -1}
"""+1 if higher values of a metric are better, otherwise -1."""
NUM_RESAMPLES = 1_000
CONFIDENCE = 0.95


def context_text(context: object) -> str:
    """`K = 10`, or `whole game` for `stream`."""
    return "whole game" if context == "stream" else f"K = {context}"


def context_order(context: object) -> tuple[bool, float, str]:
    """Sorts contexts by their length, the whole game last."""
    is_number = isinstance(context, (int, float))
    return not is_number, float(context) if is_number else 0.0, str(context)


def longest_context(contexts: Iterable[Context]) -> Context:
    """The context that contains all others."""
    return max(contexts, key=context_order)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRecords:
    """Predictions and ground truth of the evaluation frames."""

    games: np.ndarray
    """int64 (M,), index of the game."""
    previous_action: np.ndarray
    """int64 (M, P), action in the previous frame."""
    true_action: np.ndarray
    """int64 (M, P)."""
    predicted_action: np.ndarray
    """int64 (M, P)."""
    position_error: np.ndarray
    """float64 (M, P), mean absolute error over x and y, game units."""
    loss_totals: dict[str, np.ndarray]
    """Part of `val_loss` -> float64 (M,), sum over valid entries; empty for a predictor without probabilities."""
    loss_counts: dict[str, np.ndarray]
    """Part of `val_loss` -> float64 (M,), number of valid entries."""

    def __len__(self) -> int:
        return len(self.games)

    def take(self, rows: np.ndarray) -> EvalRecords:
        """Some of the records: positions, or bool (M,)."""
        return EvalRecords(
            games=self.games[rows],
            previous_action=self.previous_action[rows],
            true_action=self.true_action[rows],
            predicted_action=self.predicted_action[rows],
            position_error=self.position_error[rows],
            loss_totals={name: values[rows] for name, values in self.loss_totals.items()},
            loss_counts={name: values[rows] for name, values in self.loss_counts.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A value with its 95 % bootstrap interval over games; None without data, and no interval of a single game."""

    value: float | None
    low: float | None
    high: float | None

    def plain(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def concatenate(parts: list[EvalRecords]) -> EvalRecords:
    """Concatenate records."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: join([value[key] for value in values]) for key in values[0]}
        return np.concatenate(values)

    return EvalRecords(**{f.name: join([getattr(part, f.name) for part in parts]) for f in fields(EvalRecords)})


def compute_metrics(
    records: EvalRecords, chosen_MP: np.ndarray | None = None, resampling: Resampling | None = None
) -> dict[str, Metric]:
    """All metrics over the chosen (frame, player) pairs.

    Args:
        chosen_MP: bool (M, P), pairs to count; None: all pairs, and also `val_loss` and the metrics of player 0.
        resampling: bootstrap of the records' games, to be shared by several calls.
    """
    all_pairs = chosen_MP is None
    chosen = np.ones(records.true_action.shape, dtype=bool) if chosen_MP is None else chosen_MP
    resampling = resampling or Resampling(records.games)
    result = _pair_metrics(records, chosen, resampling)
    if all_pairs:
        first_player = np.zeros_like(chosen)
        first_player[:, 0] = True
        result |= {f"p0_{name}": metric for name, metric in _pair_metrics(records, first_player, resampling).items()}
        if records.loss_totals:
            result["val_loss"] = _val_loss(records, resampling)
    return result


def _pair_metrics(records: EvalRecords, chosen: np.ndarray, resampling: Resampling) -> dict[str, Metric]:
    correct = records.predicted_action == records.true_action
    changed = (records.true_action != records.previous_action) & chosen
    columns = (chosen, correct & chosen, changed, correct & changed, records.position_error * chosen)
    pairs, right, changes, changes_right, error = resampling.sums(columns)
    return {
        "action_acc": ratio(right, pairs),
        "change_acc": ratio(changes_right, changes),
        "pos_mae": ratio(error, pairs),
    }


def val_loss_of(sums: Mapping[str, Iterable[Any]]) -> Any:
    """Weighted sum of the parts, each a mean over valid entries; a part without valid entries counts 0.

    Args:
        sums: part -> sum over valid entries, and number of valid entries: float64 numbers, or arrays of one shape.
    """
    means = {
        name: np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        for name, (total, count) in sums.items()
    }
    return sum(weight * means[name] for name, weight in VAL_LOSS_WEIGHTS.items())


def _val_loss(records: EvalRecords, resampling: Resampling) -> Metric:
    totals, counts = records.loss_totals, records.loss_counts
    return _metric(val_loss_of({name: resampling.sums([totals[name], counts[name]]) for name in VAL_LOSS_WEIGHTS}))


class Resampling:
    """Bootstrap over games: sums over the games, and over games drawn with replacement. A single game is not drawn: it
    tells nothing of others."""

    def __init__(self, games: np.ndarray, seed: int = 0) -> None:
        present, self._game_of_row = np.unique(games, return_inverse=True)
        self._num_games = len(present)
        num_draws = NUM_RESAMPLES if self._num_games > 1 else 0
        self._draws = (
            np.random.default_rng(seed)
            .multinomial(self._num_games, np.full(self._num_games, 1 / max(1, self._num_games)), size=num_draws)
            .astype(np.float64)
        )

    def sums(self, columns: Sequence[np.ndarray]) -> np.ndarray:
        """The sum of each column, of the data first: (columns, 1 + NUM_RESAMPLES), or (columns, 1) of a single game.

        Args:
            columns: a value for each record, or for each player of each record.
        """
        by_game = np.stack(
            [
                np.bincount(self._game_of_row, values.reshape(len(values), -1).sum(1, np.float64), self._num_games)
                for values in columns
            ]
        )
        return np.concatenate([by_game.sum(1, keepdims=True), by_game @ self._draws.T], axis=1)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Metric:
    """The ratio of two sums, counts in the denominator, with its interval.

    No interval if one game alone counts: then each draw has a whole multiple of its count, and some have none.
    """
    values = np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
    is_one_game = denominator[0] > 0 and np.any(denominator == 0) and not np.any(denominator % denominator[0])
    return _metric(values[:1] if is_one_game else values)


def _metric(values: np.ndarray) -> Metric:
    if not np.isfinite(values[0]):
        return Metric(value=None, low=None, high=None)
    resampled = values[1:][np.isfinite(values[1:])]
    low, high = map(float, interval_of(resampled)) if len(resampled) else (None, None)
    return Metric(value=float(values[0]), low=low, high=high)


def interval_of(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of resampled values, over the last axis."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)
    return low, high


def metrics_by_label(
    records: EvalRecords, labels_MP: np.ndarray, names: list[str], resampling: Resampling
) -> dict[str, Any]:
    """Metrics for each label, most frequent first.

    Args:
        labels_MP: int (M, P), index into `names` of each pair.
        resampling: see `compute_metrics`.
    Returns:
        name -> {"count": pairs, "metrics": {metric: {value, low, high}}}.
    """
    counts = np.bincount(labels_MP.ravel(), minlength=len(names))
    return {
        names[label]: {
            "count": int(counts[label]),
            "metrics": {k: m.plain() for k, m in compute_metrics(records, labels_MP == label, resampling).items()},
        }
        for label in np.argsort(-counts, kind="stable")
        if counts[label]
    }


def most_missed_actions(records: EvalRecords, num_actions: int = 12, num_predictions: int = 3) -> list[dict[str, Any]]:
    """The actions most often mispredicted in the frame in which they begin, and the predictions."""
    changed = records.true_action != records.previous_action
    truth, predicted = records.true_action[changed], records.predicted_action[changed]
    wrong_counts = np.bincount(truth[truth != predicted])
    rows = []
    for action in np.argsort(-wrong_counts, kind="stable")[:num_actions]:
        if not wrong_counts[action]:
            break
        candidates = np.bincount(predicted[(truth == action) & (predicted != action)])
        rows.append(
            {
                "truth": int(action),
                "count": int((truth == action).sum()),
                "right": int(((truth == action) & (predicted == action)).sum()),
                "predicted": [
                    {"action": int(candidate), "count": int(candidates[candidate])}
                    for candidate in np.argsort(-candidates, kind="stable")[:num_predictions]
                    if candidates[candidate]
                ],
            }
        )
    return rows
