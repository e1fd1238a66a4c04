"""Waiting for something that another process or thread does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_S = 0.05


def wait_until(is_true: Callable[[], object], what: str = "it", within_s: float = 120.0) -> None:
    """Look until something is so; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(POLL_S)


def close_during_a_read(close: Callable[[], object], stop: threading.Event, go_on: threading.Event) -> None:
    """Close a reader whose read waits for `go_on`: the read ends once `stop` is set, and then the closing."""
    closing = threading.Thread(target=close)
    closing.start()
    assert stop.wait(60)
    go_on.set()
    closing.join(60)
