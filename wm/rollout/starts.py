"""Where dreams begin, and the true frames around these places.

Shape legend: S = starts, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from datasets.loading.frames import FrameArrays, GameIndex, read_ranges
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.errors import UserError
from wm.model.encoding import Frames, to_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class Starts:
    """Places in games, sorted by game and frame. Arrays are int64 (S,)."""

    games: np.ndarray
    """Index into the GameIndex."""
    frames: np.ndarray
    """Number within the game of the first imagined frame, 0 at the first row."""
    num_context: int
    """True frames before it that the model observes."""
    num_frames: int
    """Imagined frames."""

    def __len__(self) -> int:
        return len(self.games)

    def part(self, first: int, end: int) -> Starts:
        """Starts first .. end-1."""
        return Starts(
            games=self.games[first:end],
            frames=self.frames[first:end],
            num_context=self.num_context,
            num_frames=self.num_frames,
        )


def has_room(index: GameIndex, *, num_context: int, num_frames: int) -> bool:
    """Whether a dream fits into any game."""
    return bool(_num_places(index, num_context, num_frames).any())


def random_starts(index: GameIndex, num_starts: int, *, num_context: int, num_frames: int, seed: int) -> Starts:
    """Starts drawn without replacement, uniformly from all frames with enough frames before and after them.

    No imagined frame lies in the countdown.

    Raises:
        UserError: no game is long enough.
    """
    first = _first_place(num_context)
    counts = _num_places(index, num_context, num_frames)
    ends = np.cumsum(counts)
    total = int(ends[-1])
    if not total:
        raise UserError(
            f"the longest of {len(index)} games has {int(index.num_frames.max())} frames; a dream of {num_frames} "
            f"frames after a context of {num_context} needs {first + num_frames}: use fewer frames, or other games"
        )
    chosen = np.sort(np.random.default_rng(seed).choice(total, size=min(num_starts, total), replace=False))
    games = np.searchsorted(ends, chosen, side="right")
    frames = first + chosen - (ends - counts)[games]
    return Starts(games=games, frames=frames, num_context=num_context, num_frames=num_frames)


def _first_place(num_context: int) -> int:
    """First frame of a game at which a dream may begin."""
    return max(COUNTDOWN_FRAMES, num_context)


def _num_places(index: GameIndex, num_context: int, num_frames: int) -> np.ndarray:
    """Frames of each game at which a dream may begin: int64 (games,)."""
    return np.maximum(index.num_frames.astype(np.int64) - num_frames - _first_place(num_context) + 1, 0)


def one_start(index: GameIndex, game: int, frame: int, *, num_context: int, num_frames: int) -> Starts:
    """A start at a chosen place.

    Args:
        frame: number within the game of the first imagined frame.
    Raises:
        UserError: the game has too few frames before or after it.
    """
    length, name = int(index.num_frames[game]), index.game_ids[game]
    if frame < num_context:
        raise UserError(
            f"start {frame - COUNTDOWN_FRAMES}: the model needs {num_context} frames before it, and game {name} begins "
            f"at frame {-COUNTDOWN_FRAMES}; start at {num_context - COUNTDOWN_FRAMES} or later"
        )
    if frame + num_frames > length:
        raise UserError(
            f"start {frame - COUNTDOWN_FRAMES}: {num_frames} frames from it end beyond game {name}, whose last frame "
            f"is {length - 1 - COUNTDOWN_FRAMES}; start earlier, or use fewer --num-frames"
        )
    return Starts(games=np.array([game]), frames=np.array([frame]), num_context=num_context, num_frames=num_frames)


def read_frames(index: GameIndex, starts: Starts, device: torch.device, num_before: int | None = None) -> Frames:
    """True frames around each start: (S, num_before + num_frames).

    Args:
        num_before: frames before the start, by default the context. Before a game's first frame it is repeated.
    """
    num_before = starts.num_context if num_before is None else num_before
    ends = starts.frames + starts.num_frames
    first = np.maximum(starts.frames - num_before, 0)
    arrays: FrameArrays = read_ranges(index, starts.games, first, ends)
    begin = np.cumsum(ends - first) - (ends - first)
    wanted = starts.frames[:, None] - num_before + np.arange(num_before + starts.num_frames)
    rows = begin[:, None] + np.maximum(wanted - first[:, None], 0)
    return to_frames(take_rows(arrays, index.facts[starts.games], rows), device)
