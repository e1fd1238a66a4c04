"""Throughput, memory and the other parts of a run's time, for its log and its throughput profile."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from wm.checkpoints.retention import Row

GB = 1e9
MAX_SPEEDS = 1_000
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes per unit of ru_maxrss: KiB on Linux, bytes on macOS."""

STEADY_KEYS = (
    "mean_targets_per_s", "mean_wait_share", "steady_s", "steady_cpu_s", "warm_up_s", "warm_up_cpu_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The counters at one moment."""

    targets: int
    seconds: float
    """Of training."""
    waited_s: float = 0.0
    """For data."""
    cpu_s: float = 0.0
    """That this process computed while it trained."""


class Throughput:
    """Measures training time: a clock that runs during updates and is stopped during validation and checkpoints."""

    def __init__(self, seconds: float, targets_seen: int) -> None:
        """
        Args:
            seconds: of training before this process.
            targets_seen: before this process.
        """
        self.seconds = seconds
        self._running_since: tuple[float, float] | None = None
        self._cpu_s = 0.0
        self._at_log = self._at_start = Reading(targets=targets_seen, seconds=seconds)
        self._at_first_log: Reading | None = None
        self._speeds: list[float] = []

    def start(self) -> None:
        """Start the clock if it is stopped."""
        if self._running_since is None:
            self._running_since = time.monotonic(), time.process_time()

    def update(self) -> None:
        """Add the time since the last call; the device must be synchronized."""
        if self._running_since is not None:
            now, cpu_now = time.monotonic(), time.process_time()
            self.seconds += now - self._running_since[0]
            self._cpu_s += cpu_now - self._running_since[1]
            self._running_since = now, cpu_now

    def stop(self) -> None:
        """Stop the clock."""
        self.update()
        self._running_since = None

    def since_last_log(self, targets_seen: int, waited_s: float) -> dict[str, float]:
        """Speed and share of time spent waiting for data since the last call."""
        last = self._at_log
        self._at_log = Reading(targets=targets_seen, seconds=self.seconds, waited_s=waited_s, cpu_s=self._cpu_s)
        self._at_first_log = self._at_first_log or self._at_log
        passed = max(1e-9, self.seconds - last.seconds)
        speed = (targets_seen - last.targets) / passed
        self._speeds = [*self._speeds[-MAX_SPEEDS:], speed]
        return {"targets_per_s": speed, "wait_share": min(1.0, (waited_s - last.waited_s) / passed)}

    @property
    def steady_targets_per_s(self) -> float:
        """The median over the log's intervals without the first, which warms up."""
        return statistics.median(self._speeds[1:] or self._speeds or [0.0])

    @property
    def steady(self) -> dict[str, float | None]:
        """Of this process without the log's first interval, which warms up; None before the second one.

        `mean_targets_per_s` and `mean_wait_share` over `steady_s` seconds, in which the process computed for
        `steady_cpu_s` (all threads together); `warm_up_s` and `warm_up_cpu_s`: how much longer the first interval took
        than at that speed (compilation, the first pool).
        """
        start, first, last = self._at_start, self._at_first_log, self._at_log
        if first is None or last.seconds <= first.seconds or last.targets <= first.targets:
            return dict.fromkeys(STEADY_KEYS)
        targets, seconds, cpu_s = last.targets - first.targets, last.seconds - first.seconds, last.cpu_s - first.cpu_s
        share = (first.targets - start.targets) / targets
        return {
            "mean_targets_per_s": targets / seconds,
            "mean_wait_share": min(1.0, (last.waited_s - first.waited_s) / seconds),
            "steady_s": seconds,
            "steady_cpu_s": cpu_s,
            "warm_up_s": max(0.0, first.seconds - start.seconds - share * seconds),
            "warm_up_cpu_s": max(0.0, first.cpu_s - start.cpu_s - share * cpu_s),
        }


def peak_gb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process, and of its tensors on the GPU, in GB."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GB
    if device.type != "cuda":
        return {"peak_gb": host}
    return {"peak_gb": host, "device_peak_gb": torch.cuda.max_memory_allocated(device) / GB}


@dataclass(kw_only=True, slots=True)
class Part:
    """Something that a run does several times while it does not train."""

    number: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    """That this process computed meanwhile."""
    frames: int = 0
    """Frames that passed through the network."""

    @contextmanager
    def once(self) -> Iterator[None]:
        """Time it once."""
        started, cpu_started = time.monotonic(), time.process_time()
        yield
        self.number += 1
        self.seconds += time.monotonic() - started
        self.cpu_s += time.process_time() - cpu_started

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


class PartTimes:
    """What this process spent on starting, evaluations and checkpoints."""

    def __init__(self, started_at: float | None) -> None:
        """
        Args:
            started_at: when the command began, as `time.time()`; None if nobody knows.
        """
        self._started_at = started_at
        self._start_s: float | None = None
        self._start_cpu_s: float | None = None
        self.validations, self.final_evaluation, self.checkpoints = Part(), Part(), Part()

    def is_ready(self) -> None:
        """The first batch is requested now."""
        if self._start_s is None and self._started_at is not None:
            self._start_s = max(0.0, time.time() - self._started_at)  # clocks of two machines may differ
            self._start_cpu_s = time.process_time()

    def plain(self) -> dict[str, Any]:
        """As JSON data; `cpu_s` is what this process has computed since it began."""
        return {
            "start_s": self._start_s,
            "start_cpu_s": self._start_cpu_s,
            "validations": self.validations.plain(),
            "final_evaluation": self.final_evaluation.plain(),
            "checkpoints": self.checkpoints.plain(),
            "cpu_s": time.process_time(),
        }


def evaluated_frames(rows: Sequence[Row]) -> int:
    """Frames that pass through the network in an evaluation: K for each target and context, without `stream`."""
    return sum(row["num_targets"] * row["context"] for row in rows if row["context"] != "stream")
