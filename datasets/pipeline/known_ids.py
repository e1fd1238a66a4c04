"""Ids of the games that a corpus has, in a form that every worker can hold: 16 bytes a game."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

NO_IDS = np.zeros((2, 0), np.uint64)


def known_ids(game_ids: Iterable[str]) -> np.ndarray:
    """Ids of games (md5, 32 hexadecimal digits) as uint64 (2, games): first and last 8 bytes, sorted by the first.

    Both halves are kept, since two games may agree in one of them.
    """
    halves = np.array([(int(one[:16], 16), int(one[16:], 16)) for one in game_ids], np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(halves[np.argsort(halves[:, 0])].T)


def is_known(known: np.ndarray, game_id: str) -> bool:
    """Whether an id is among those of `known_ids`."""
    first, last = np.uint64(int(game_id[:16], 16)), np.uint64(int(game_id[16:], 16))
    start, end = np.searchsorted(known[0], first, "left"), np.searchsorted(known[0], first, "right")
    return bool((known[1, start:end] == last).any())
