"""A plausibility check: something that holds for every player of an undamaged game.

Each check compares whole columns once, and then examines only the few frames that remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.checks.player_timeline import PlayerTimeline
from datasets.schema.columns import FIRST_FRAME_ID

Finding = tuple[str, str, np.ndarray]
"""Code, message about the first of the frames, and the frames (int64, indices into the timeline; never empty)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A rule that a game breaks."""

    code: str
    """See `datasets.schema.reject_reasons`."""
    message: str
    frames: np.ndarray
    """int64, indices into the game's frames; empty if the rule concerns the whole game."""


def num_frames_of(violations: Sequence[Violation]) -> int:
    """Distinct frames of a game that some violations concern."""
    return len(np.unique(np.concatenate([found.frames for found in violations]))) if violations else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PlausibilityCheck:
    """A check of one player's timeline, and the columns that it needs."""

    find: Callable[[PlayerTimeline], Iterator[Finding]]
    """Yields the frames that violate the check."""
    columns: frozenset[str]
    """Post-frame columns. The check is skipped if the source lacks one."""
    pre_frame_columns: frozenset[str] = frozenset()
    """Columns that the source must also record before each frame."""
    applies_to_followers: bool = False
    """Whether it holds for the Ice Climbers' partner, whose inputs and states the game updates in another order."""

    def violations(self, timeline: PlayerTimeline) -> Iterator[Violation]:
        """What the check finds in one timeline."""
        if timeline.is_follower and not self.applies_to_followers:
            return
        if not (self.columns <= timeline.names and self.pre_frame_columns <= timeline.pre_frame_names):
            return
        for code, text, frames in self.find(timeline):
            in_game = frames + timeline.first_frame
            message = f"player {timeline.player}: {text}{_at_frames(in_game)}"
            yield Violation(code=code, message=message, frames=in_game)


def shown(value: float, reference: float) -> str:
    """A number for a message that also shows the reference; with their difference where both would look equal."""
    text = f"{value:g}"
    looks_equal = value != reference and text == f"{reference:g}"
    return f"{text} (a difference of {float(value) - float(reference):.3g})" if looks_equal else text


def _at_frames(frames: np.ndarray) -> str:
    """The id of the first frame, and the number of others."""
    more = f" and in {len(frames) - 1} more" if len(frames) > 1 else ""
    return f" at frame {int(frames[0]) + FIRST_FRAME_ID}{more}"
