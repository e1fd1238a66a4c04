"""When a run is lost: its loss is not a number any more, or many times what it was."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from wm.config.run_config import DivergenceConfig

FIRST_VERDICT_WINDOWS = 2
"""Windows of steps that pass before a loss can have exploded: the first few of a run are its warm-up."""


@dataclass(frozen=True, slots=True)
class _Losses:
    """The mean loss of a few steps."""

    mean: float
    num_steps: int


class DivergenceWatch:
    """Looks at the loss at each sync point and says when the run has diverged.

    A running mean over (at least) `window_steps` steps is compared with the lowest such mean of the run. All that a
    verdict depends on is in `state`, so a resumed run decides as an undisturbed one does.
    """

    def __init__(self, config: DivergenceConfig, state: dict[str, Any] | None = None) -> None:
        """
        Args:
            state: what `state` returned before.
        """
        self._config = config
        state = state or {"window": [], "num_steps": 0, "lowest": None}
        self._window = deque(_Losses(float(mean), int(steps)) for mean, steps in state["window"])
        self._num_steps: int = state["num_steps"]
        self._lowest: float | None = state["lowest"]

    def see(self, loss: float, targets_seen: int, num_steps: int = 1) -> str | None:
        """Take in the steps since the last call.

        Args:
            loss: mean of their losses.
            targets_seen: by the run, for the message.
            num_steps: how many they were.
        Returns:
            Why the run has diverged, as a clause without a full stop; None where it has not.
        """
        if not math.isfinite(loss):
            return f"the loss is not finite at {targets_seen:,} targets"
        self._take(_Losses(loss, num_steps))
        window_steps = self._config.window_steps
        if self._num_steps < window_steps:
            return None
        mean = _mean(self._window)
        before = self._lowest
        self._lowest = mean if before is None else min(before, mean)
        if self._num_steps < FIRST_VERDICT_WINDOWS * window_steps or before is None:
            return None
        if mean < self._config.spike_ratio * before or before <= 0:
            return None
        return (
            f"the loss has exploded at {targets_seen:,} targets: its mean over {window_steps} steps is {mean:.4g}, "
            f"{mean / before:.1f} times the lowest before ({before:.4g})"
        )

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {
            "window": [[losses.mean, losses.num_steps] for losses in self._window],
            "num_steps": self._num_steps,
            "lowest": self._lowest,
        }

    def _take(self, losses: _Losses) -> None:
        """Add to the window, and drop what it does not need any more to hold `window_steps`."""
        self._window.append(losses)
        self._num_steps += losses.num_steps
        held = sum(entry.num_steps for entry in self._window)
        while held - self._window[0].num_steps >= self._config.window_steps:
            held -= self._window.popleft().num_steps


def _mean(window: deque[_Losses]) -> float:
    """Summed afresh each time, so that it does not depend on when a run was resumed."""
    num_steps = sum(losses.num_steps for losses in window)
    return sum(losses.mean * (losses.num_steps / num_steps) for losses in window)
