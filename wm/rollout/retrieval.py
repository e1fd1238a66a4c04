"""The nearest real situation as a predictor: what happened next in the training games, applied to the dream's start.

For each start the most similar of MAX_MOMENTS moments (`wm.rollout.situations`) of the training games is found by
comparing it with all of them, as they are and with the players exchanged. The continuation is the true one of
that moment: all columns are copied, but x, y and percent go on from the start by the differences to the moment, until
the player dies there; from the death on they are copied as well. Games of the evaluation are never searched.

Shape legend: S = starts, T = imagined frames, P = players (2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays, GameIndex, read_games, read_ranges
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.model.dynamics.deaths import REBIRTH_WAIT
from wm.model.dynamics.imagination import controller_columns
from wm.model.dynamics.next_frame import NUM_CONTROLLER_COLUMNS
from wm.model.encoding import Frames
from wm.rollout.situations import FRAMES_BEFORE, FUTURE_OFFSETS, Situations, distances, players_swapped, situations
from wm.rollout.starts import Starts

MAX_FRAMES = 600_000
"""Frames of training games that are read: 113 MB, and all of about 70 games."""
MAX_MOMENTS = 200_000
"""Of them that are compared, evenly spaced: the time of a search is proportional to it."""
BLOCK_MOMENTS, BLOCK_QUESTIONS = 16_384, 64
"""Compared at once."""
FUTURE = max(FUTURE_OFFSETS)
_CARRIED_ON = tuple(FLOAT_COLUMNS.index(name) for name in ("x", "y", "percent"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Retrieval:
    """The moment of a training game that each start is most like, and what followed."""

    frames: FrameArrays
    """The training games that were searched."""
    moments: np.ndarray
    """int64 (S,), row of each start's moment."""
    is_swapped: np.ndarray
    """bool (S,), whether the moment's players are exchanged."""

    def imagine(self, first: int, context: Frames, truth: Frames) -> Frames:
        """The continuation of some starts.

        Args:
            first: number of the first of them.
            context: what was observed, for as many starts as are wanted.
            truth: the true frames, of which only the controllers are used.
        """
        part = slice(first, first + len(context.game))
        rows = self.moments[part, None] + np.arange(truth.num_frames + 1)
        swapped = torch.from_numpy(self.is_swapped[part])
        floats = _exchanged(torch.from_numpy(self.frames.floats[rows]), swapped)
        codes = _exchanged(torch.from_numpy(self.frames.codes[rows]), swapped)
        last = context.last
        return _carry_on(last, floats, codes, controller_columns(truth))


def _exchanged(values_STPC: Tensor, swapped_S: Tensor) -> Tensor:
    return torch.where(swapped_S[:, None, None, None], values_STPC.flip(2), values_STPC)


def _carry_on(last: Frames, floats: Tensor, codes: Tensor, controllers_STPC: Tensor) -> Frames:
    """Apply a continuation to the last true frames.

    Args:
        last: T = 1.
        floats, codes: the moment and the T frames after it, (S, 1 + T, P, C).
    """
    action, stocks = (CODE_COLUMNS.index(name) for name in ("action", "stocks"))
    moment_floats, floats = floats[:, :1], floats[:, 1:].clone()
    moment_codes, codes = codes[:, :1], codes[:, 1:].clone()
    has_died = (codes[..., action] <= REBIRTH_WAIT).cummax(dim=1).values
    for column in _CARRIED_ON:
        carried_on = last.floats[..., column] + floats[..., column] - moment_floats[..., column]
        floats[..., column] = torch.where(has_died, floats[..., column], carried_on)
    left = last.codes[..., stocks] + codes[..., stocks] - moment_codes[..., stocks]
    codes[..., stocks] = left.clamp(min=0)
    codes[..., CODE_COLUMNS.index("character")] = last.codes[..., CODE_COLUMNS.index("character")]
    codes = torch.cat([codes[..., :-NUM_CONTROLLER_COLUMNS], controllers_STPC], dim=-1)
    return replace(last, floats=floats, codes=codes)


def retrieve(train: GameIndex, index: GameIndex, starts: Starts, *, seed: int) -> Retrieval | None:
    """Find the nearest training situation of each start. Deterministic.

    Args:
        train: games that may be searched; those of the index are left out.
        index: the games of the starts.
        seed: chooses the games, if there are more than MAX_FRAMES frames.
    Returns:
        None if there is no game to search.
    Raises:
        UserError: a shard cannot be read.
    """
    games = chosen_games(train, index, starts, seed)
    if not len(games):
        return None
    frames = read_games(train, games)
    moments, stages = _moments(train, games, starts.num_frames)
    asked = _questions(index, starts)
    best = np.full(len(starts), np.inf, np.float32)
    nearest, is_swapped = np.zeros(len(starts), np.int64), np.zeros(len(starts), bool)
    for first in range(0, len(moments), BLOCK_MOMENTS):
        rows = moments[first : first + BLOCK_MOMENTS]
        block = situations(frames, rows, stages[first : first + BLOCK_MOMENTS])
        for swaps, questions in enumerate(asked):
            found, positions = _nearest(questions, block)
            is_nearer = found < best
            best = np.where(is_nearer, found, best)
            nearest = np.where(is_nearer, rows[positions], nearest)
            is_swapped = np.where(is_nearer, bool(swaps), is_swapped)
    return Retrieval(frames=frames, moments=nearest, is_swapped=is_swapped)


def chosen_games(train: GameIndex, index: GameIndex, starts: Starts, seed: int) -> np.ndarray:
    """Games to search, int64, sorted: first those with the stage and the characters of an evaluated game, then those
    with its stage, then others; of each kind in random order, until they have MAX_FRAMES frames."""
    needed = FRAMES_BEFORE + max(FUTURE, starts.num_frames) + 1
    judged = set(index.game_ids.tolist())
    may = train.num_frames > COUNTDOWN_FRAMES + needed
    may &= np.fromiter((game not in judged for game in train.game_ids.tolist()), bool, len(train))
    evaluated = np.unique(starts.games)
    pairs = {(stage, *pair) for stage, pair in zip(*_matchups(index, evaluated), strict=True)}
    stages = {pair[0] for pair in pairs}
    rank = [
        0 if (stage, *pair) in pairs else 1 if stage in stages else 2
        for stage, pair in zip(*_matchups(train, np.arange(len(train))), strict=True)
    ]
    order = np.lexsort([np.random.default_rng(seed).permutation(len(train)), np.array(rank)])
    order = order[may[order]]
    frames = np.cumsum(train.num_frames[order].astype(np.int64))
    return np.sort(order[: max(1, int(np.searchsorted(frames, MAX_FRAMES, side="right")))])


def _matchups(index: GameIndex, games: np.ndarray) -> tuple[list[int], list[tuple[int, ...]]]:
    """Stage, and sorted characters, of some games."""
    pairs = np.sort(index.characters[games], axis=1).tolist()
    return index.facts[games, 0].tolist(), [tuple(pair) for pair in pairs]


def _moments(train: GameIndex, games: np.ndarray, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of at most MAX_MOMENTS of the games' frames, with enough frames before and after each, and their stages."""
    lengths = train.num_frames[games].astype(np.int64)
    offsets = np.cumsum(lengths) - lengths
    after = max(FUTURE, num_frames)
    rows = [offset + np.arange(COUNTDOWN_FRAMES, n - after) for offset, n in zip(offsets, lengths, strict=True)]
    stages = np.repeat(train.facts[games, 0], [len(part) for part in rows])
    spacing = -(-len(stages) // MAX_MOMENTS)
    return np.concatenate(rows)[::spacing], stages[::spacing]


def _questions(index: GameIndex, starts: Starts) -> tuple[Situations, Situations]:
    """The situations in the last frame before each start, as they are and with the players exchanged.

    The controllers of imagined frames beyond the dream's end are not given; those of its last frame stand for them.
    """
    before = min(FRAMES_BEFORE + 1, starts.num_context)
    first, length = starts.frames - before, FRAMES_BEFORE + 1 + FUTURE
    known = min(FUTURE, starts.num_frames)
    arrays = read_ranges(index, starts.games, first, starts.frames + known)
    offsets = np.arange(-FRAMES_BEFORE - 1, FUTURE).clip(-before, known - 1) + before
    rows = (np.arange(len(starts)) * (before + known))[:, None] + offsets
    whole = FrameArrays(floats=arrays.floats[rows.ravel()], codes=arrays.codes[rows.ravel()])
    moments = np.arange(len(starts)) * length + FRAMES_BEFORE
    stages = index.facts[starts.games, 0]
    return situations(whole, moments, stages), situations(players_swapped(whole), moments, stages)


def _nearest(asked: Situations, block: Situations) -> tuple[np.ndarray, np.ndarray]:
    """The smallest distance of each question, and its position in the block; the first of equal ones."""
    parts = []
    for first in range(0, len(asked), BLOCK_QUESTIONS):
        found = distances(asked.part(first, first + BLOCK_QUESTIONS), block)
        rows = found.argmin(1)
        parts.append((found[np.arange(len(rows)), rows], rows))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
