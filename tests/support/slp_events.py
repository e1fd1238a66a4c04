"""The event stream of a .slp, taken apart and put together again event by event."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

PAYLOADS = 0x35


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
