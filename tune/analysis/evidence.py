"""What a sweep knows about its trials: sums by game of each trial's final evaluation. The input of all statistics."""

from __future__ import annotations

from dataclasses import dataclass

from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialEvidence:
    """The evaluation of one trial that trained to its end."""

    trial: str
    """Name of the trial."""
    setting: str
    """Its values on all axes but K and the seed, as text."""
    seed: int
    trained_context: int
    """Longest context that training has shown the network, frames: the sequence's length, or the window's K."""
    sums: dict[Context, GameSums]
    """Evaluated context -> sums by game. A trial with the objective `window` has one; contexts may differ by trial."""
