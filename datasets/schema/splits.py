"""The train/validation/test split. It depends on the game alone, so a game never moves as a corpus grows.

A game that may hold rollback frames (an older pipeline's, whose rollback frames cannot all be detected) is never
evaluated on. It does not move to the training split either: once its .slp arrives it is evaluated on, and a model
trained on the older copy would have seen it. So such a game trains if its split number says so, and otherwise belongs
to `all` only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """The fractions of games in each split. A game's split number in [0, 1) decides; the rest trains."""

    test_fraction: float = 0.05
    """Fraction of games for the final evaluation: split numbers in [0, test_fraction)."""
    validation_fraction: float = 0.10
    """Fraction of games for evaluation during and after training: the split numbers after those."""

    def __post_init__(self) -> None:
        if not (0 <= self.test_fraction <= 1 and 0 <= self.validation_fraction <= 1 - self.test_fraction):
            raise ValueError(
                f"test_fraction={self.test_fraction}, validation_fraction={self.validation_fraction}: "
                "both must be fractions between 0 and 1, and their sum at most 1"
            )


def split_number(key: str) -> float:
    """Number in [0, 1) of a split key: the first 8 bytes of its blake2b digest, divided by 2^64."""
    digest = hashlib.blake2b(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def in_split(
    split_numbers: np.ndarray, split: Split, config: SplitConfig, may_hold_rollbacks: np.ndarray | None = None
) -> np.ndarray:
    """Mask of the games in a split.

    Args:
        split_numbers: float64 (games,), column `split_number` of the corpus.
        may_hold_rollbacks: bool (games,), the column of that name; None means that no game does.
    Returns:
        bool (games,).
    """
    test_end = config.test_fraction
    validation_end = config.test_fraction + config.validation_fraction
    if split == "all":
        return np.ones(len(split_numbers), dtype=bool)
    if split == "train":
        return split_numbers >= validation_end
    can_evaluate = True if may_hold_rollbacks is None else ~may_hold_rollbacks
    if split == "test":
        return (split_numbers < test_end) & can_evaluate
    return (split_numbers >= test_end) & (split_numbers < validation_end) & can_evaluate
