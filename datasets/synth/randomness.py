"""Random numbers that depend only on what they are for, never on when or beside what they are drawn.

A counter-based generator: the SplitMix64 finaliser (Steele, Lea, Flood 2014) over (key, counter). So a game is the
same in any batch, and drawing for a few fighters of a batch costs only those few.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_C1, _C2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw(keys: np.ndarray, counter: np.ndarray | int) -> np.ndarray:
    """One random word per key.

    Args:
        keys: uint64 (n,).
        counter: non-negative, one for all or int64 (n,).
    Returns:
        uint64 (n,), uniform over all 64-bit words.
    """
    word = keys + (np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * _C1
    word = (word ^ (word >> np.uint64(27))) * _C2
    return word ^ (word >> np.uint64(31))


def keys_of(seed: int, indices: np.ndarray) -> np.ndarray:
    """One key per index.

    Args:
        seed: of the run, 0 to 2**63 - 1.
        indices: int64 (n,), game numbers.
    Returns:
        uint64 (n,).
    """
    return draw(draw(np.full(1, seed, np.uint64), 0), indices)


def bits(words: np.ndarray, at: int, count: int) -> np.ndarray:
    """`count` bits of each word from bit `at`, as int64 (n,)."""
    return ((words >> np.uint64(at)) & np.uint64((1 << count) - 1)).astype(np.int64)
