"""Coherence: how far dreams drift from the truth. NumPy only.

The definition is that of the published evaluation (docs/rollout.md): starts uniform over the frames of the evaluated
games, the true controllers of both players, the most probable values fed back. The position error of a frame is the
mean of |dx| and |dy| over both players, in game units.
    coherence_N     mean position error of frames 1 to N, over all starts
    position_N      position error of frame N
    action_acc_N    share of players whose action is right in frame N; action_acc_to_N is the mean of frames 1 to N
    percent_N       mean error of the percent of frames 1 to N
    deaths_right    of the players who lose stocks, the share that loses as many in the dream
    phantom_deaths  of the others, the share that loses stocks in the dream

Shape legend: S = starts, T = imagined frames, P = players (2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm.evaluation.metrics import Metric, Resampling, interval_of, ratio
from wm.rollout.events import CHECKS, EVENTS

HORIZONS = (1, 5, 10, 20, 60, 120, 300, 600)
"""Frames after the start for which metrics are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamErrors:
    """Errors of dreams against the truth; means over both players."""

    games: np.ndarray
    """int64 (S,), index of the game."""
    events: np.ndarray
    """int64 (S,), index into EVENTS."""
    position: np.ndarray
    """float64 (S, T), game units."""
    action_right: np.ndarray
    """float64 (S, T), 0, 0.5 or 1."""
    percent: np.ndarray
    """float64 (S, T), percent."""
    lost_stocks: np.ndarray
    """int64 (S, P), stocks that each player loses in the true frames."""
    imagined_losses: np.ndarray
    """int64 (S, P), in the imagined ones."""
    possible_frames: dict[str, np.ndarray]
    """Check (`wm.rollout.events.CHECKS`) -> int64 (S,), frames before the first impossible one."""

    @property
    def num_frames(self) -> int:
        """T."""
        return self.position.shape[1]


def join(parts: Sequence[DreamErrors]) -> DreamErrors:
    """Errors of several batches of dreams."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    return DreamErrors(
        games=joined("games"),
        events=joined("events"),
        position=joined("position"),
        action_right=joined("action_right"),
        percent=joined("percent"),
        lost_stocks=joined("lost_stocks"),
        imagined_losses=joined("imagined_losses"),
        possible_frames={name: np.concatenate([part.possible_frames[name] for part in parts]) for name in CHECKS},
    )


def metrics(errors: DreamErrors, resampling: Resampling | None = None) -> dict[str, Metric]:
    """All metrics, with 95 % bootstrap intervals over games.

    Args:
        resampling: bootstrap of the errors' games, to be shared by several calls.
    """
    columns: dict[str, np.ndarray] = {}
    for horizon in HORIZONS:
        if horizon > errors.num_frames:
            break
        columns[f"coherence_{horizon}"] = errors.position[:, :horizon].mean(1)
        columns[f"position_{horizon}"] = errors.position[:, horizon - 1]
        columns[f"action_acc_{horizon}"] = errors.action_right[:, horizon - 1]
        columns[f"action_acc_to_{horizon}"] = errors.action_right[:, :horizon].mean(1)
        columns[f"percent_{horizon}"] = errors.percent[:, :horizon].mean(1)
        for check, frames in errors.possible_frames.items():
            columns[f"possible_{check}_{horizon}"] = (frames >= horizon).astype(np.float64)
        all_checks = np.min(list(errors.possible_frames.values()), axis=0)
        columns[f"possible_{horizon}"] = (all_checks >= horizon).astype(np.float64)
    resampling = resampling or Resampling(errors.games)
    sums = resampling.sums([np.ones(len(errors.games)), *columns.values()])
    found = {name: ratio(values, sums[0]) for name, values in zip(columns, sums[1:], strict=True)}
    return found | _deaths(errors, resampling)


def _deaths(errors: DreamErrors, resampling: Resampling) -> dict[str, Metric]:
    """See the head of the file."""
    dies, dies_in_dream = errors.lost_stocks > 0, errors.imagined_losses > 0
    right = dies & (errors.lost_stocks == errors.imagined_losses)
    deaths, deaths_right, lives, phantoms = resampling.sums([dies, right, ~dies, ~dies & dies_in_dream])
    return {"deaths_right": ratio(deaths_right, deaths), "phantom_deaths": ratio(phantoms, lives)}


def summary(errors: DreamErrors) -> dict[str, Any]:
    """Metrics as JSON data: values by name, their intervals, curves over the frames, and a row for each event."""
    resampling = Resampling(errors.games)
    found = metrics(errors, resampling)
    return {
        **{name: metric.value for name, metric in found.items()},
        "intervals": {name: [metric.low, metric.high] for name, metric in found.items()},
        "curves": {
            "position": _rounded(errors.position.mean(0)),
            **_curve_interval(errors.position, resampling),
            "action_acc": _rounded(errors.action_right.mean(0)),
            "percent": _rounded(errors.percent.mean(0)),
        },
        "events": _by_event(errors, resampling),
    }


def by_game(errors: DreamErrors, game_ids: np.ndarray) -> dict[str, list[Any]]:
    """Sums over the dreams and frames of each game as JSON data, by which two models are compared game by game.

    Args:
        game_ids: id of each game that `errors.games` refers to.
    """
    games, rows = np.unique(errors.games, return_inverse=True)

    def total(values: np.ndarray) -> list[float]:
        return [round(float(value), 6) for value in np.bincount(rows, values.sum(1), len(games))]

    return {
        "game_ids": [str(game) for game in game_ids[games]],
        "num_dreams": np.bincount(rows, minlength=len(games)).tolist(),
        "position_error": total(errors.position),
        "actions_right": total(errors.action_right),
    }


def _curve_interval(values_ST: np.ndarray, resampling: Resampling) -> dict[str, list[float]]:
    """Ends of the 95 % intervals of the mean position errors of each frame; none of a single game."""
    sums = resampling.sums([np.ones(len(values_ST)), *values_ST.T])
    resampled = (sums[1:] / sums[0])[:, 1:]
    if not resampled.shape[1]:
        return {}
    low, high = interval_of(resampled)
    return {"position_low": _rounded(low), "position_high": _rounded(high)}


def _by_event(errors: DreamErrors, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """Event -> number of starts, their share of all position error, and their mean errors over all frames."""
    total, last = errors.position.sum(), errors.num_frames
    rows = {}
    for number, name in enumerate(EVENTS):
        chosen = errors.events == number
        if not chosen.any():
            continue
        starts, *sums = resampling.sums(
            [chosen, *(values.mean(1) * chosen for values in (errors.position, errors.action_right, errors.percent))]
        )
        keys = (f"coherence_{last}", f"action_acc_to_{last}", f"percent_{last}")
        found = {key: ratio(values, starts) for key, values in zip(keys, sums, strict=True)}
        rows[name] = {
            "num_starts": int(chosen.sum()),
            "share_of_error": float(errors.position[chosen].sum() / total) if total else 0.0,
            **{key: metric.value for key, metric in found.items()},
            "intervals": {key: [metric.low, metric.high] for key, metric in found.items()},
        }
    return rows


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]
