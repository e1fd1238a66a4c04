"""The event stream of a .slp, taken apart and put together again event by event."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

PAYLOADS, PRE, ITEM, BOOKEND, PLATFORM, WIND, TRANSFORMATION = 0x35, 0x37, 0x3B, 0x3C, 0x3F, 0x40, 0x41
LATER_SIZES = {PRE: 66, ITEM: 0x2C, PLATFORM: 9, WIND: 5, TRANSFORMATION: 8}
"""Payload sizes in 3.18. Since 3.17 a Pre-Frame Update ends with the raw C-stick."""


def events_of(content: bytes) -> tuple[dict[int, int], list[bytes], bytes]:
    """Payload sizes, every event from Game Start on, and the bytes after the stream, read one by one."""
    assert content.startswith(b"{U\x03raw[$U#l") and content[15] == PAYLOADS
    at = 16 + content[16]
    entries = (content[i : i + 3] for i in range(17, at, 3))
    sizes = {code: size for code, size in (struct.unpack(">BH", entry) for entry in entries)}
    end = 15 + struct.unpack(">i", content[11:15])[0]
    events = []
    while at < end:
        events.append(content[at : at + 1 + sizes[content[at]]])
        at += len(events[-1])
    assert at == end
    return sizes, events, content[end:]


def with_events(sizes: Mapping[int, int], events: Sequence[bytes], rest: bytes) -> bytes:
    """The .slp with these payload sizes, events and bytes after the stream."""
    entries = b"".join(struct.pack(">BH", code, size) for code, size in sizes.items())
    stream = bytes([PAYLOADS, 1 + len(entries)]) + entries + b"".join(events)
    return b"{U\x03raw[$U#l" + struct.pack(">i", len(stream)) + stream + rest


def with_3_18_events(content: bytes, by_frame: Mapping[int, Sequence[bytes]]) -> bytes:
    """A synthetic replay of 3.16 as 3.18 would have written it, with more events before the ends of frames."""
    sizes, events, rest = events_of(content)
    events[0] = events[0][:1] + bytes([3, 18, 0]) + events[0][4:]
    added: list[bytes] = []
    for event in events:
        if event[0] == BOOKEND:
            added += by_frame.get(struct.unpack_from(">i", event, 1)[0], [])
        added.append(event.ljust(1 + LATER_SIZES[PRE], b"\0") if event[0] == PRE else event)
    return with_events(sizes | LATER_SIZES, added, rest)


def item_event(frame: int, spawn_id: int, port: int) -> bytes:
    """An Item Update of 3.18."""
    head = struct.pack(">BiHBfffff", ITEM, frame, 54, 1, 1.0, 2.5, -0.5, 10.0, 20.0)
    return head + struct.pack(">HfI4BbH", 3, 90.0, spawn_id, 0, 6, 0, 0, port, 17)


def platform_event(frame: int, platform: int, height: float) -> bytes:
    """An FOD Platforms event: 0 is the right platform, 1 the left one."""
    return struct.pack(">BiBf", PLATFORM, frame, platform, height)
