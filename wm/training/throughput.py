"""Throughput and memory of a run, for its log and its throughput profile."""

from __future__ import annotations

import resource
import statistics
import sys
import time

import torch

GB = 1e9
MAX_SPEEDS = 1_000
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes per unit of ru_maxrss: KiB on Linux, bytes on macOS."""


class Throughput:
    """Measures training time: a clock that runs during updates and is stopped during validation and checkpoints."""

    def __init__(self, seconds: float, targets_seen: int) -> None:
        """
        Args:
            seconds: of training before this process.
            targets_seen: before this process.
        """
        self.seconds = seconds
        self._running_since: float | None = None
        self._at_log = (targets_seen, seconds, 0.0)
        self._speeds: list[float] = []

    def start(self) -> None:
        """Start the clock if it is stopped."""
        if self._running_since is None:
            self._running_since = time.monotonic()

    def update(self) -> None:
        """Add the time since the last call; the device must be synchronized."""
        if self._running_since is not None:
            now = time.monotonic()
            self.seconds += now - self._running_since
            self._running_since = now

    def stop(self) -> None:
        """Stop the clock."""
        self.update()
        self._running_since = None

    def since_last_log(self, targets_seen: int, waited_s: float) -> dict[str, float]:
        """Speed and share of time spent waiting for data since the last call."""
        targets, seconds, waited = self._at_log
        passed = max(1e-9, self.seconds - seconds)
        self._at_log = (targets_seen, self.seconds, waited_s)
        speed = (targets_seen - targets) / passed
        self._speeds = [*self._speeds[-MAX_SPEEDS:], speed]
        return {"targets_per_s": speed, "wait_share": min(1.0, (waited_s - waited) / passed)}

    @property
    def steady_targets_per_s(self) -> float:
        """The median over the log's intervals without the first, which warms up."""
        return statistics.median(self._speeds[1:] or self._speeds or [0.0])


def peak_gb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process, and of its tensors on the GPU, in GB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GB
    if device.type != "cuda":
        return {"peak_gb": host}
    return {"peak_gb": host, "device_peak_gb": torch.cuda.max_memory_allocated(device) / GB}
