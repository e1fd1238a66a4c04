"""Deliberate faults: rollback frames as netplay writes them, and corrupt files as in every real dump.

Shape legend: see simulation.py.
"""

from collections.abc import Callable

import numpy as np

from datasets.runtime.splitmix64 import bit_field, random_words
from datasets.synth.slp_layout import Layout

MAX_ROLLBACK = 7
"""Maximum frames per rollback."""
ROLLBACK_PROBABILITY = 1 / 40
"""Probability of a rollback at a frame."""


def add_rollbacks(rows: np.ndarray, layout: Layout, key: int) -> np.ndarray:
    """Insert mispredicted rows before the rows of some frames.

    Args:
        rows: frame events (T,) of `layout.row()`, one per frame.
        key: random number key, 0 to 2**64 - 1.
    Returns:
        T or more rows; the last row of each frame id is the given one.
    """
    count = len(rows)
    words = random_words(np.full(count, key, np.uint64), np.arange(count))
    depth = np.where(
        bit_field(words, 0, 16) < 65536 * ROLLBACK_PROBABILITY, 1 + bit_field(words, 16, 16) % MAX_ROLLBACK, 0
    )
    # Rollbacks do not overlap, and end before the game does.
    starts, free_from = [], 1
    for at in np.flatnonzero(depth):
        if at >= free_from and at + depth[at] <= count:
            starts.append(at)
            free_from = at + depth[at]
    pieces, mispredicted, last = [], [], 0
    for at in starts:
        pieces.append(np.arange(last, at + depth[at]))
        mispredicted.append(np.concatenate([np.zeros(at - last, bool), np.ones(depth[at], bool)]))
        last = at
    pieces.append(np.arange(last, count))
    mispredicted.append(np.zeros(count - last, bool))
    recorded = rows[np.concatenate(pieces)]
    _mispredict(recorded, np.flatnonzero(np.concatenate(mispredicted)), layout)
    return recorded


def _mispredict(recorded: np.ndarray, mispredicted: np.ndarray, layout: Layout) -> None:
    """Change the remote (second) player in the rows `mispredicted` (int (n,)): neutral inputs, and another position."""
    pre, post = recorded["pre"], recorded["post"]
    # Fields first, then rows: assigning to `recorded[mispredicted]["pre"]` would change a copy.
    for name, value in (("joystick_x", 0.0), ("joystick_y", 0.0), ("buttons_physical", 0), ("buttons", 0)):
        column = pre[name]
        column[mispredicted, 1] = value
    for name, shift in (("x", 0.75), ("y", 0.5), ("percent", 3.0)):
        column = post[name]
        column[mispredicted, 1] += np.float32(shift)
    if layout.bookend is not None:
        recorded["bookend"]["latest_finalized_frame"][mispredicted] -= MAX_ROLLBACK


def _truncated(data: bytes, word: int) -> bytes:
    return data[: len(data) // 4 + word % (len(data) // 2)]


def _flipped(data: bytes, word: int) -> bytes:
    """Change a thousand random bytes."""
    damaged = np.frombuffer(data, np.uint8).copy()
    words = random_words(np.full(1000, word, np.uint64), np.arange(1000))
    positions = (words % np.uint64(len(data))).astype(np.int64)
    damaged[positions] ^= (1 + bit_field(words, 40, 8) % 255).astype(np.uint8)
    return damaged.tobytes()


def _not_slp(data: bytes, word: int) -> bytes:
    return b"This is a text file that somebody named .slp.\n" * (1 + word % 100)


def _empty(data: bytes, word: int) -> bytes:
    return b""


def _zeroed(data: bytes, word: int) -> bytes:
    """Zero a block in the middle, as a failing disk does."""
    at = len(data) // 3 + word % (len(data) // 3)
    return data[:at] + bytes(4096) + data[at + 4096 :]


def _wrong_payload_size(data: bytes, word: int) -> bytes:
    """Change the payload size of the post-frame update in Event Payloads."""
    at = data.index(b"\x38", 15)
    return data[: at + 2] + bytes([data[at + 2] ^ (1 + word % 7)]) + data[at + 3 :]


def _half_header(data: bytes, word: int) -> bytes:
    return data[: 5 + word % 400]


CORRUPTIONS: dict[str, Callable[[bytes, int], bytes]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "not-slp": _not_slp,
    "empty": _empty,
    "zeroed": _zeroed,
    "wrong-payload-size": _wrong_payload_size,
    "half-header": _half_header,
}
"""Kind -> function from the bytes of a valid file and a random word to the bytes of a corrupt file."""
