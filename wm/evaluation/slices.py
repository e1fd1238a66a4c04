"""Slices of an evaluation's pairs of frame and player: where a model is good, and where context helps.

The labels of a pair depend on the game alone, so that they are the same for all models and contexts.
Shape legend: M = evaluation frames, N = frames in memory, P = players (2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import FLOAT_COLUMNS, GameIndex
from datasets.schema.columns import NUM_PLAYERS
from datasets.schema.melee_ids import character_name
from wm.evaluation.action_groups import CATEGORY_NAMES, action_category
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import EvalRecords
from wm.evaluation.target_frames import TargetFrames

SINCE_HIT_BOUNDS = (10, 30, 60, 120)
"""Frames; the label of a target is the range that its frames since the last hit lie in."""
SINCE_HIT_NAMES = ("0-9 frames", "10-29 frames", "30-59 frames", "60-119 frames", "120 frames or more")
NEEDED_CONTEXT = SINCE_HIT_BOUNDS[-1] + 1
"""Frames before a target that tell in which range it lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The label of each pair in one dimension."""

    dimension: str
    numbers: np.ndarray
    """int64 (M, P), index into names."""
    names: Sequence[str]


def since_hit(frames: TargetFrames) -> np.ndarray:
    """In which range of SINCE_HIT_NAMES the last hit before each target lies: int64 (M,).

    A hit is a frame in which the percent of either player rises. A target is 0 frames after a hit if it follows it.

    Args:
        frames: with at least NEEDED_CONTEXT frames before each target.
    """
    percent = frames.floats[:, :, FLOAT_COLUMNS.index("percent")].cpu().numpy()
    # Where the frames of one range follow those of another, a false hit lies at least SINCE_HIT_BOUNDS[-1] frames back.
    is_hit = np.zeros(len(percent), dtype=bool)
    is_hit[1:] = (percent[1:] > percent[:-1]).any(1)
    last_hit = np.maximum.accumulate(np.where(is_hit, np.arange(len(percent)), -SINCE_HIT_BOUNDS[-1] - 1))
    before = frames.rows - 1
    return np.digitize(before - last_hit[before], SINCE_HIT_BOUNDS)


def labels_of(records: EvalRecords, index: GameIndex, since_hit_M: np.ndarray) -> list[Labels]:
    """All dimensions: the category of the true action, the player's character, the time since the last hit.

    Args:
        since_hit_M: `since_hit` of the records' targets.
    """
    characters = np.unique(index.characters)
    return [
        Labels(dimension="action", numbers=action_category(records.true_action), names=CATEGORY_NAMES),
        Labels(
            dimension="character",
            numbers=np.searchsorted(characters, index.characters[records.games]),
            names=[character_name(int(number)) for number in characters],
        ),
        Labels(dimension="since hit", numbers=np.repeat(since_hit_M[:, None], NUM_PLAYERS, 1), names=SINCE_HIT_NAMES),
    ]


def slice_sums(records: EvalRecords, game_ids: np.ndarray, labels: Sequence[Labels]) -> dict[str, dict[str, GameSums]]:
    """Dimension -> label -> sums over the pairs with that label, by game; labels without a pair are left out.

    Args:
        game_ids: id of each game of the index that the records refer to.
    """
    right = records.predicted_action == records.true_action
    changed = records.true_action != records.previous_action
    return {own.dimension: _sums_by_label(records, game_ids, own, right, changed) for own in labels}


def _sums_by_label(
    records: EvalRecords, game_ids: np.ndarray, labels: Labels, right: np.ndarray, changed: np.ndarray
) -> dict[str, GameSums]:
    games, game_of_record = np.unique(records.games, return_inverse=True)
    cells_MP = labels.numbers * len(games) + game_of_record[:, None]
    size = len(labels.names) * len(games)

    def total(values: np.ndarray, cells: np.ndarray = cells_MP) -> np.ndarray:
        return np.bincount(cells.ravel(), np.asarray(values, np.float64).ravel(), size).reshape(-1, len(games))

    def count(values: np.ndarray, cells: np.ndarray = cells_MP) -> np.ndarray:
        return total(values, cells).astype(np.int64)

    is_second = cells_MP[:, 1] != cells_MP[:, 0]  # a frame whose players have one label counts once
    table = {
        "num_frames": count(np.ones(len(records)), cells_MP[:, 0]) + count(is_second, cells_MP[:, 1]),
        "num_pairs": count(np.ones_like(right)),
        "num_right": count(right),
        "num_changes": count(changed),
        "num_changes_right": count(right & changed),
        "position_error": total(records.position_error),
    }
    present = table["num_pairs"] > 0
    names = game_ids[games].astype(str)
    return {
        name: GameSums(
            game_ids=names[present[label]],
            **{column: values[label, present[label]] for column, values in table.items()},
            loss_totals={},
            loss_counts={},
        )
        for label, name in enumerate(labels.names)
        if present[label].any()
    }
