"""A plausibility check: something that holds for every player of an undamaged game.

Each check compares whole columns once, and then examines only the few frames that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from datasets.checks.player_timeline import PlayerTimeline
from datasets.schema.columns import FIRST_FRAME_ID

Finding = tuple[str, str, np.ndarray]
"""Reject code, message about the first of the frames, and the frames (int64, indices; empty if only counted)."""

MAX_VIOLATIONS = 16
"""Frames of a player that may violate an empirical check. More than that is not damage but a source of another kind:
a modified game, a scripted recording, or a character outside of the measured games."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlausibilityCheck:
    """A check of one player's timeline, and the columns that it needs."""

    find: Callable[[PlayerTimeline], Iterator[Finding]]
    """Yields the frames that violate the check."""
    columns: frozenset[str]
    """Post-frame columns. The check is skipped if the source lacks one."""
    pre_frame_columns: frozenset[str] = frozenset()
    """Columns that the source must also record before each frame."""
    is_empirical: bool = True
    """Whether the check rests on measured games, not on the definition of the columns."""
    applies_to_followers: bool = False
    """Whether it holds for the Ice Climbers' partner, whose inputs and states the game updates in another order."""

    def violations(self, timeline: PlayerTimeline) -> list[tuple[str, str]]:
        """Reject code and message of each violation."""
        if not (self.columns <= timeline.names and self.pre_frame_columns <= timeline.pre_frame_names):
            return []
        return [
            (code, f"player {timeline.player}: {text}{_at_frames(frames)}")
            for code, text, frames in self.find(timeline)
            if not (self.is_empirical and len(frames) > MAX_VIOLATIONS)
        ]


def _at_frames(frames: np.ndarray) -> str:
    """The id of the first frame, and the number of others; empty without frames."""
    more = f" and in {len(frames) - 1} more" if len(frames) > 1 else ""
    return f" at frame {int(frames[0]) + FIRST_FRAME_ID}{more}" if len(frames) else ""
