"""Detects that a run has diverged: its loss is not finite, or a multiple of what it was."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from datasets.runtime.errors import UserError
from wm.config.run_config import DivergenceConfig

WARMUP_WINDOWS = 2
"""Windows of steps before a spike can be detected: the first few are the learning-rate warm-up."""


class DivergedError(UserError):
    """The loss spiked or is not finite; raised on every rank."""


class DivergenceDetector:
    """Checks the loss at each synchronization with the device.

    A moving average over (at least) `window_steps` steps is compared with the lowest such average of the run. `state`
    holds everything that a decision depends on, so a resumed run decides as an uninterrupted one does.
    """

    def __init__(self, config: DivergenceConfig, state: dict[str, Any] | None = None) -> None:
        """
        Args:
            state: an earlier result of `state`.
        """
        self._config = config
        state = state or {"window": [], "num_steps": 0, "lowest": None}
        self._window: deque[list[float]] = deque(state["window"])
        """[mean loss, number of steps] of each synchronization."""
        self._num_steps: int = state["num_steps"]
        self._lowest: float | None = state["lowest"]

    def update(self, loss: float, targets_seen: int, num_steps: int = 1) -> str | None:
        """Add the steps since the last call.

        Args:
            loss: their mean loss.
            targets_seen: by the run, for the message.
        Returns:
            Why the run has diverged, as a clause without a full stop; None if it has not.
        """
        if not math.isfinite(loss):
            return f"the loss is not finite at {targets_seen:,} targets"
        self._add(loss, num_steps)
        window_steps = self._config.window_steps
        if self._num_steps < window_steps:
            return None
        mean = _mean(self._window)
        before = self._lowest
        self._lowest = mean if before is None else min(before, mean)
        if self._num_steps < WARMUP_WINDOWS * window_steps or before is None:
            return None
        if mean < self._config.spike_ratio * before or before <= 0:
            return None
        return (
            f"the loss spiked at {targets_seen:,} targets: its mean over {window_steps} steps is {mean:.4g}, "
            f"{mean / before:.1f} times the lowest before ({before:.4g})"
        )

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "window": list(self._window),
            "num_steps": self._num_steps,
            "lowest": self._lowest,
        }

    def _add(self, loss: float, num_steps: int) -> None:
        """Add to the window, and drop the oldest entries that are not needed for `window_steps`."""
        self._window.append([loss, num_steps])
        self._num_steps += num_steps
        held = sum(steps for _, steps in self._window)
        while held - self._window[0][1] >= self._config.window_steps:
            held -= self._window.popleft()[1]


def _mean(window: deque[list[float]]) -> float:
    """Recomputed each time, so that it does not depend on when a run was resumed."""
    num_steps = sum(steps for _, steps in window)
    return sum(loss * (steps / num_steps) for loss, steps in window)
