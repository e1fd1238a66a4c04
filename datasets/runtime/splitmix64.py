"""SplitMix64 (Steele, Lea, Flood 2014) over whole arrays: a hash, and a counter-based random number generator.

A number depends on its key and counter alone, so a batch of numbers does not depend on how it is split.
"""

from __future__ import annotations

import numpy as np

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Hash each value: uint64 (n,) -> uint64 (n,), uniform over all 64-bit words."""
    with np.errstate(over="ignore"):
        mixed = values + _INCREMENT
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MULTIPLIERS[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MULTIPLIERS[1]
        return mixed ^ (mixed >> np.uint64(31))


def random_words(keys: np.ndarray, counter: np.ndarray | int) -> np.ndarray:
    """One random word for each key.

    Args:
        keys: uint64 (n,).
        counter: non-negative, one for all keys or int64 (n,).
    Returns:
        uint64 (n,), uniform over all 64-bit words.
    """
    return splitmix64(keys + np.atleast_1d(counter).astype(np.uint64) * _INCREMENT)


def random_keys(seed: int, indices: np.ndarray) -> np.ndarray:
    """One key for each index, independent of the keys of other indices and seeds.

    Args:
        seed: 0 to 2**63 - 1.
        indices: int64 (n,), non-negative.
    Returns:
        uint64 (n,).
    """
    return random_words(random_words(np.full(1, seed, np.uint64), 0), indices)


def bit_field(words: np.ndarray, offset: int, width: int) -> np.ndarray:
    """`width` bits of each word from bit `offset` on: int64 (n,)."""
    return ((words >> np.uint64(offset)) & np.uint64((1 << width) - 1)).astype(np.int64)
