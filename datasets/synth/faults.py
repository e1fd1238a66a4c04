"""What goes wrong on purpose: rollback frames, as netplay writes them, and broken files, as every real dump holds.

Shape legend: see simulation.py.
"""

from collections.abc import Callable

import numpy as np

from datasets.runtime.splitmix64 import bit_field, random_words
from datasets.synth.slp_layout import Layout

MAX_ROLLBACK = 7
"""Most frames that netplay takes back at once."""
ROLLBACK_CHANCE = 1 / 40
"""Share of frames at which it does."""


def add_rollbacks(rows: np.ndarray, layout: Layout, key: int) -> np.ndarray:
    """Lets frame ids go back and repeat: first mispredicted rows, then the right ones.

    Args:
        rows: frame events (T,) of `layout.row()`, one per frame.
        key: of the random numbers, 0 to 2**64 - 1.
    Returns:
        rows (more than T), of which the last of each frame id is the given one.
    """
    count = len(rows)
    words = random_words(np.full(count, key, np.uint64), np.arange(count))
    depth = np.where(bit_field(words, 0, 16) < 65536 * ROLLBACK_CHANCE, 1 + bit_field(words, 16, 16) % MAX_ROLLBACK, 0)
    # A later frame is never sent before an earlier one was: take-backs do not overlap and stay inside the game.
    starts, free_from = [], 1
    for at in np.flatnonzero(depth):
        if at >= free_from and at + depth[at] <= count:
            starts.append(at)
            free_from = at + depth[at]
    pieces, wrong, last = [], [], 0
    for at in starts:
        pieces.append(np.arange(last, at + depth[at]))
        wrong.append(np.concatenate([np.zeros(at - last, bool), np.ones(depth[at], bool)]))
        last = at
    pieces.append(np.arange(last, count))
    wrong.append(np.zeros(count - last, bool))
    sent = rows[np.concatenate(pieces)]
    _mispredict(sent, np.flatnonzero(np.concatenate(wrong)), layout)
    return sent


def _mispredict(sent: np.ndarray, wrong: np.ndarray, layout: Layout) -> None:
    """The remote player (the second) was thought to hold its stick still and stood a little elsewhere."""
    pre, post = sent["pre"], sent["post"]
    # Whole columns are read and written: assigning to `sent[wrong]["pre"]` would change a copy.
    for name, value in (("joystick_x", 0.0), ("joystick_y", 0.0), ("buttons_physical", 0), ("buttons", 0)):
        column = pre[name]
        column[wrong, 1] = value
    for name, shift in (("x", 0.75), ("y", 0.5), ("percent", 3.0)):
        column = post[name]
        column[wrong, 1] += np.float32(shift)
    if layout.bookend is not None:
        sent["bookend"]["latest_finalized_frame"][wrong] -= MAX_ROLLBACK


def _truncated(data: bytes, word: int) -> bytes:
    return data[: len(data) // 4 + word % (len(data) // 2)]


def _flipped(data: bytes, word: int) -> bytes:
    """Random bits of the events' command bytes and values change, in a thousand places."""
    damaged = np.frombuffer(data, np.uint8).copy()
    words = random_words(np.full(1000, word, np.uint64), np.arange(1000))
    places = (words % np.uint64(len(data))).astype(np.int64)
    damaged[places] ^= (1 + bit_field(words, 40, 8) % 255).astype(np.uint8)
    return damaged.tobytes()


def _not_slp(data: bytes, word: int) -> bytes:
    return b"This is a text file that somebody named .slp.\n" * (1 + word % 100)


def _empty(data: bytes, word: int) -> bytes:
    return b""


def _zeroed(data: bytes, word: int) -> bytes:
    """A block of zeros in the middle, as a failing disk leaves it."""
    at = len(data) // 3 + word % (len(data) // 3)
    return data[:at] + bytes(4096) + data[at + 4096 :]


def _wrong_payload_size(data: bytes, word: int) -> bytes:
    """Event Payloads names a wrong size for the post-frame update."""
    at = data.index(b"\x38", 15)
    return data[: at + 2] + bytes([data[at + 2] ^ (1 + word % 7)]) + data[at + 3 :]


def _half_header(data: bytes, word: int) -> bytes:
    return data[: 5 + word % 400]


BROKEN: dict[str, Callable[[bytes, int], bytes]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "not-slp": _not_slp,
    "empty": _empty,
    "zeroed": _zeroed,
    "wrong-payload-size": _wrong_payload_size,
    "half-header": _half_header,
}
"""Kinds of fault: each takes the bytes of a good file and a random number, and gives the bytes of a broken one."""
