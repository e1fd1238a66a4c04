"""How fast a run is: seconds of training alone, and the figures of its log and of its throughput profile."""

from __future__ import annotations

import resource
import statistics
import time

import torch

GB = 1e9
KEPT_SPEEDS = 1_000


class Pace:
    """A clock that runs while a run trains, and stands while it is judged."""

    def __init__(self, seconds: float, targets_seen: int) -> None:
        """
        Args:
            seconds: of training before this process.
            targets_seen: then.
        """
        self.seconds = seconds
        self._running_since: float | None = None
        self._at_log = (targets_seen, seconds, 0.0)
        self._speeds: list[float] = []

    def start(self) -> None:
        """Let the clock run, if it does not."""
        if self._running_since is None:
            self._running_since = time.monotonic()

    def read(self) -> None:
        """Add what has passed; the device must have been waited for."""
        if self._running_since is not None:
            now = time.monotonic()
            self.seconds += now - self._running_since
            self._running_since = now

    def stop(self) -> None:
        """Let it stand: what follows is no training."""
        self.read()
        self._running_since = None

    def since_last_log(self, targets_seen: int, waited_s: float) -> dict[str, float]:
        """Speed and share of waiting for data since the last call."""
        targets, seconds, waited = self._at_log
        passed = max(1e-9, self.seconds - seconds)
        self._at_log = (targets_seen, self.seconds, waited_s)
        speed = (targets_seen - targets) / passed
        self._speeds = [*self._speeds[-KEPT_SPEEDS:], speed]
        return {"targets_per_s": speed, "wait_share": min(1.0, (waited_s - waited) / passed)}

    @property
    def steady_targets_per_s(self) -> float:
        """The median over the log's intervals, the first of which warms up."""
        return statistics.median(self._speeds[1:] or self._speeds or [0.0])


def peak_gb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process, and what it took of the GPU, in GB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
    if device.type != "cuda":
        return {"peak_gb": host}
    return {"peak_gb": host, "device_peak_gb": torch.cuda.max_memory_allocated(device) / GB}
