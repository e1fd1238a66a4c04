"""Rewrites the event streams of Slippi 3.0 to 3.6 so that peppi-py can read them. No stored value changes.

In those versions a frame's closing event (Frame Bookend, SPEC.md) contains only the frame id. peppi-py 0.8.6 turns it
into a struct without fields, and panics. The fields that peppi-py expects depend on the version in the file, so the
rewritten file claims a version with the same stored fields:

- 3.0 to 3.4 become 2.2, which has no bookends: they are removed.
- 3.5 and 3.6, which have velocities, become 3.7: the fields that 3.7 added to bookends and Game Start are appended.

Item events are removed in both cases. They changed in 3.2 and 3.6, and are not stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EVENT_PAYLOADS, GAME_START = 0x35, 0x36
POST_FRAME, ITEM, FRAME_BOOKEND = 0x38, 0x3B, 0x3C
RAW_LENGTH = slice(11, 15)
"""Big-endian length of the event stream, after `{U\\x03raw[$U#l`; 0 while the game is still recorded."""
STREAM_START = RAW_LENGTH.stop
BOOKEND_BYTES, START_BYTES = 4, 0x1A2
"""Payload sizes in 3.0 to 3.6: a Frame Bookend holds the frame id, Game Start ends with Frozen PS."""
LATER_BOOKEND_BYTES, LATER_START_BYTES = 8, 0x1A4
"""Payload sizes in 3.7, which added the latest finalized frame id, and the minor and major scene."""

Version = tuple[int, int, int]
OLDEST_REPAIRED: Version = (3, 0, 0)
FIRST_WITH_VELOCITIES: Version = (3, 5, 0)
FIRST_READABLE: Version = (3, 7, 0)
WITHOUT_BOOKENDS: Version = (2, 2, 0)
POST_BYTES, POST_BYTES_WITH_VELOCITIES = 0x34, 0x48
"""Payload size of a Post-Frame Update before 3.5 and since. A version that does not match it is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repaired:
    """A rewritten replay that peppi-py can read."""

    content: bytes
    version: Version
    """The version of the original replay."""


def needs_repair(version: Version) -> bool:
    """Whether replays of this version are rewritten: from 3.0.0, below 3.7.0."""
    return OLDEST_REPAIRED <= version < FIRST_READABLE


def repair(content: bytes) -> Repaired | None:
    """Rewrite a replay that peppi-py cannot read because of its version.

    Args:
        content: an uncompressed .slp file, possibly damaged.
    Returns:
        None for other versions, and if the header is too damaged to separate the events; peppi-py then reports the
        damage. Damage after the header is left unchanged, for the same reason.
    """
    start = _game_start_offset(content)
    if start is None:
        return None
    version = (content[start + 1], content[start + 2], content[start + 3])
    if not needs_repair(version):
        return None
    sizes = _payload_sizes(content, start)
    has_velocities = version >= FIRST_WITH_VELOCITIES
    expected = {
        GAME_START: START_BYTES,
        POST_FRAME: POST_BYTES_WITH_VELOCITIES if has_velocities else POST_BYTES,
        FRAME_BOOKEND: BOOKEND_BYTES,
    }
    if ITEM not in sizes or any(sizes.get(code) != size for code, size in expected.items()):
        return None
    claimed = FIRST_READABLE if has_velocities else WITHOUT_BOOKENDS
    return Repaired(content=_rewrite(content, start, sizes, claimed), version=version)


def _game_start_offset(content: bytes) -> int | None:
    """Offset of Game Start: right after Event Payloads, whose second byte is its size."""
    if len(content) < STREAM_START + 2 or content[STREAM_START] != EVENT_PAYLOADS:
        return None
    offset = STREAM_START + 1 + content[STREAM_START + 1]
    return offset if offset + 4 <= len(content) and content[offset] == GAME_START else None


def _payload_sizes(content: bytes, start: int) -> dict[int, int]:
    """Command byte -> payload size in bytes, from Event Payloads."""
    table = content[STREAM_START + 2 : start]
    return {table[i]: int.from_bytes(table[i + 1 : i + 3], "big") for i in range(0, len(table) - 2, 3)}


def _rewrite(content: bytes, start: int, sizes: dict[int, int], claimed: Version) -> bytes:
    raw_length = int.from_bytes(content[RAW_LENGTH], "big")
    end = min(STREAM_START + raw_length, len(content)) if raw_length else len(content)
    first_event = start + 1 + START_BYTES
    end = max(end, first_event)
    with_bookends = claimed >= OLDEST_REPAIRED
    table = bytearray(content[STREAM_START:start])
    pieces = [bytes([GAME_START, *claimed]), content[start + 1 + len(claimed) : first_event]]
    if with_bookends:
        pieces.append(bytes(LATER_START_BYTES - START_BYTES))
        _set_payload_size(table, GAME_START, LATER_START_BYTES)
        _set_payload_size(table, FRAME_BOOKEND, LATER_BOOKEND_BYTES)
    for kept, bookend, rest in _events(sizes).findall(content, first_event, end):
        pieces.append(kept or rest)
        if bookend and with_bookends:
            pieces += (bookend, bookend[1:])  # latest finalized frame: the frame itself, as without rollbacks
    events = b"".join(pieces)
    if raw_length:  # a truncated file keeps claiming more bytes than it has
        raw_length = min(raw_length + len(events) - (end - start), 0xFFFF_FFFF)
    header = content[: RAW_LENGTH.start] + raw_length.to_bytes(4, "big")
    return b"".join([header, table, events, content[end:]])


def _events(sizes: dict[int, int]) -> re.Pattern[bytes]:
    """Matches events up to and including an item or bookend, or everything from the first byte that starts no event.

    A regular expression (with the possessive repeats of Python 3.11) skips each command byte's payload in C. Bytes that
    start no complete event fall into the last group with everything after them, so no byte is lost. On a 3.3 game of
    9,079 frames it finds the bookends in about half the time of a Python loop. The whole rewrite takes 0.65 of the time
    in which peppi-py reads the result: 5.4 and 8.3 ms on 2 shared CPU cores, 2026-11-23, best of 6 in one run.

    Groups: events to keep, a bookend, the remainder.
    """
    event = {code: re.escape(bytes([code])) + b".{%d}" % size for code, size in sizes.items()}
    kept = b"|".join(pattern for code, pattern in event.items() if code not in (ITEM, FRAME_BOOKEND))
    return re.compile(
        b"((?:%b)*+)(?:%b|(%b))|(.+)" % (kept, event[ITEM], event[FRAME_BOOKEND]),
        re.DOTALL,
    )


def _set_payload_size(table: bytearray, code: int, size: int) -> None:
    """Change one size in Event Payloads, a table that starts with its command byte."""
    for at in range(2, len(table) - 2, 3):
        if table[at] == code:
            table[at + 1 : at + 3] = size.to_bytes(2, "big")
