"""Waiting for something that another process does."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.05


def wait_until(is_true: Callable[[], object], what: str = "it", within_s: float = 120.0) -> None:
    """Look until something is so; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(POLL_S)
