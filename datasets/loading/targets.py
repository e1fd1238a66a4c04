"""Evaluation targets: a fixed list of frames, the same for every context length, model and run on a corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import GameIndex
from datasets.runtime.splitmix64 import splitmix64
from datasets.schema.columns import FIRST_FRAME_ID

COUNTDOWN_FRAMES = -FIRST_FRAME_ID
"""Frames before id 0. Only frames with ids >= 0 are targets, so that contexts up to this length are always full."""

MAX_CANDIDATES = 4_000_000
"""Candidates in memory at once, because a large corpus has hundreds of millions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Frames to predict, sorted by game and frame. Arrays are int64 (targets,)."""

    games: np.ndarray
    """Index into the GameIndex."""
    frames: np.ndarray
    """Frame number within the game, 0 at the first row; at least COUNTDOWN_FRAMES."""

    def __len__(self) -> int:
        return len(self.games)


def evaluation_targets(index: GameIndex, max_targets: int | None = 20_000) -> Targets:
    """The frames with the smallest hashes, so that the choice depends on games and frames alone.

    Args:
        max_targets: at most this many; None takes every frame from id 0 on.
    """
    games, frames, hashes = [], [], []
    kept = 0
    for game, length in enumerate(index.num_frames):
        numbers = np.arange(COUNTDOWN_FRAMES, length)
        key = np.uint64(int(str(index.game_ids[game])[:16], 16))
        games.append(np.full(len(numbers), game))
        frames.append(numbers)
        hashes.append(splitmix64(key ^ splitmix64(numbers.astype(np.uint64))))
        kept += len(numbers)
        if max_targets is not None and kept > max(MAX_CANDIDATES, 4 * max_targets):
            games, frames, hashes = ([part] for part in _smallest(games, frames, hashes, max_targets))
            kept = max_targets
    if not games:
        return Targets(games=np.empty(0, np.int64), frames=np.empty(0, np.int64))
    chosen_games, chosen_frames, _ = _smallest(games, frames, hashes, max_targets)
    return Targets(games=chosen_games, frames=chosen_frames)


def _smallest(
    games: list[np.ndarray], frames: list[np.ndarray], hashes: list[np.ndarray], max_targets: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The targets with the smallest hashes, in their original order."""
    all_games, all_frames, all_hashes = np.concatenate(games), np.concatenate(frames), np.concatenate(hashes)
    if max_targets is None or len(all_games) <= max_targets:
        return all_games, all_frames, all_hashes
    chosen = np.sort(np.argpartition(all_hashes, max_targets - 1)[:max_targets])
    return all_games[chosen], all_frames[chosen], all_hashes[chosen]
