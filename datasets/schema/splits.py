"""Which games train, which are judged: decided by the game alone, so it never changes as a corpus grows.

A game that may hold rollbacks (rows that netplay sent again, which nothing tells from the others) is never judged.
Nor does it train in place of being judged: when its .slp arrives it is judged, and what has trained on it would have
seen it. So it trains if its number is one of training, and is in no split but `all` otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Where the number in [0, 1) that each game has is cut into splits."""

    test_share: float = 0.05
    """Share of games in [0, test_share): kept for the last judgement."""
    validation_share: float = 0.10
    """Share of games in the next part: judged during and after training. The rest trains."""

    def __post_init__(self) -> None:
        if not (0 <= self.test_share <= 1 and 0 <= self.validation_share <= 1 - self.test_share):
            raise ValueError(
                f"test_share={self.test_share}, validation_share={self.validation_share}: "
                "both must be shares of 1 that together leave room for training"
            )


def split_number(key: str) -> float:
    """Number in [0, 1) of a split key: first 8 bytes of its blake2b over 2^64."""
    digest = hashlib.blake2b(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def in_split(
    split_numbers: np.ndarray, split: Split, config: SplitConfig, may_hold_rollbacks: np.ndarray | None = None
) -> np.ndarray:
    """Which games belong to a split.

    Args:
        split_numbers: float64 (games,), the corpus' `split_number`.
        may_hold_rollbacks: bool (games,), the corpus' column of that name; None where no game may.
    Returns:
        bool (games,).
    """
    test_end = config.test_share
    validation_end = config.test_share + config.validation_share
    if split == "all":
        return np.ones(len(split_numbers), dtype=bool)
    if split == "train":
        return split_numbers >= validation_end
    can_judge = True if may_hold_rollbacks is None else ~may_hold_rollbacks
    if split == "test":
        return (split_numbers < test_end) & can_judge
    return (split_numbers >= test_end) & (split_numbers < validation_end) & can_judge
