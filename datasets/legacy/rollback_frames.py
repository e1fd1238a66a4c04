"""Which rows netplay sent again, where frame ids are lost: the older pipelines kept such rows and dropped the ids.

Netplay plays on with the other player's controller held as it was, and plays frames again once that proves wrong.
A recording then holds f, .., g, f', .., g', g+1, ..: the row after g goes back by some frames and replaces those.
Of the 16,710 such rows in the 31 real games that have any, and hitlag, all but 3 have

- the recording player's controller just as it is in the row that they replace;
- the other's, in the rows that they replace, held as it was before them;
- where both controllers are as they were, the same state as well.

A row is taken for a repeat if that is so and a player stands still who cannot: outside of hitlag his action's clock
stops or goes back, or he is where he was. Counted by `tests/support/rollback_trials.py` on the 115 real games: of
18,714 rows that were replaced 117 are left, and no row that counts is lost. What is not seen is mostly a throw or a
hit that was not foreseen, which looks like one. So a game with more than a few repeats is not trusted, nor one in
which an action of fixed length is too long. All 76 games without rollbacks are trusted, and 5 of the 39 with some;
each of the 81 has exactly the frames of its replay. Of 1,980 recordings made with 1 to 3 rollbacks, 4 were trusted
and had rows too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.replays.game import Columns
from datasets.schema.columns import FIRST_FRAME_ID, NUM_PLAYERS, POST_COLUMNS, PRE_COLUMNS, VELOCITY_COLUMNS

MAX_FRAMES_BACK = 8
"""Netplay goes back by at most 7 frames; 6 are the most in the real games."""
MAX_TRUSTED_REPEATS = 3
"""In recordings with up to so many, about 1 in 500 is trusted though it holds another that is not seen; with 20 it
would be 1 in 20."""
FASTEST_CLOCK = 4.5
"""Most by which state age grows in a frame of play; where a row goes back it never grew by this or less."""
FIRST_SENT_AGAIN = -60 - FIRST_FRAME_ID
"""Frames from the start in which none is sent again: controllers count from id -39 on; the first one seen is -45."""
FIRST_FORESEEN = -30 - FIRST_FRAME_ID
"""For some frames from there on, there is no earlier row in which the other's controller was held."""

ENTRY_LENGTHS = {322: (5, 10, 15, 20), 323: (29,), 324: (30,)}
"""Actions of the countdown -> frames that they last."""
ACTION_LENGTHS = {0: (60,), 1: (60,), 2: (60,), 4: (176,), 12: (60,)} | ENTRY_LENGTHS
"""Actions that always last as long (dying, coming back, the countdown) -> frames, measured on the 115 real games."""
HOLDING_ACTIONS = frozenset({*range(11), 202, 203, *ENTRY_LENGTHS})
"""Dying, clinging to a wall, the countdown: a player may stand still there without hitlag."""
HELD_ACTIONS = range(223, 341)
"""Caught, thrown, swallowed: a player may stand still there while the other is in hitlag."""
MOVED_BY_OTHERS = frozenset({"x", "y", "last_attack", "combo", "hitlag"})
"""In what the recording player's repeat may differ though he did the same: the other pushed him, or met his attack."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """What is known of a game's rows."""

    rows: np.ndarray | None
    """int64 (frames,): the rows that count, in order; None where all do."""
    is_certain: bool
    """Whether they are, as far as can be told, the replay's own: no repeats, no gaps."""


def recognise_rollbacks(players: Sequence[Columns]) -> Recognised:
    """Find the rows that were sent again.

    Without hitlag (Slippi before 3.8) a repeat looks like a hit. Rows are then left as they are, and a game is
    uncertain as soon as players stand still for a single row.

    Args:
        players: both players' columns, every row of the game in the order of the recording.
    """
    if players[0]["state_age"] is None:
        return Recognised(rows=None, is_certain=False)
    play = _Play(players)
    first = found = _walk(play, recorders=range(NUM_PLAYERS))
    if not play.has_hitlag:
        return Recognised(rows=None, is_certain=not _stalls_once(play, found) and _lengths_hold(players, None))
    votes = Counter(repeat.recorders[0] for repeat in found.repeats if len(repeat.recorders) == 1)
    if len(votes) > 1 or found.is_ambiguous:
        found = _walk(play, recorders=[player for player, _ in votes.most_common(1)] or range(NUM_PLAYERS))
    rows = np.array(found.rows, dtype=np.int64) if found.repeats else None
    is_certain = (
        len(found.repeats) <= MAX_TRUSTED_REPEATS
        and not found.is_ambiguous
        and {repeat.row for repeat in first.repeats} <= {repeat.row for repeat in found.repeats}
        and _lengths_hold(players, rows)
    )
    return Recognised(rows=rows, is_certain=is_certain)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Repeat:
    """A row that goes back."""

    row: int
    frames_back: int
    recorders: list[int]
    """Players who may have recorded the game, by this repeat."""


@dataclass(kw_only=True, slots=True)
class _Walk:
    """A way through the rows."""

    rows: list[int] = field(default_factory=list)
    """By frame, the row that counts."""
    repeats: list[_Repeat] = field(default_factory=list)
    is_ambiguous: bool = False
    """Whether a row could go back by different numbers of frames."""


class _Play:
    """A game's rows, ready to be compared one by one: lists, of which single items are faster to get than of arrays."""

    def __init__(self, players: Sequence[Columns]) -> None:
        self.columns = players
        self.num_rows = len(_held(players[0], "action"))
        self.has_hitlag = all(columns["hitlag"] is not None for columns in players)
        self.actions = [_held(columns, "action").tolist() for columns in players]
        self.ages = [_held(columns, "state_age").tolist() for columns in players]
        no_hitlag = [0.0] * self.num_rows
        self.hitlags = [_held(columns, "hitlag").tolist() if self.has_hitlag else no_hitlag for columns in players]
        self.controllers = [_digests(columns, PRE_COLUMNS).tolist() for columns in players]
        self.states = [_digests(columns, POST_COLUMNS).tolist() for columns in players]

    def goes_on(self) -> np.ndarray:
        """bool (rows - 1,): whether the next row can only be the next frame, by a clock or by both hitlags."""
        clocks = np.zeros(self.num_rows - 1, dtype=bool)
        freezes = np.full(self.num_rows - 1, self.has_hitlag)
        for columns in self.columns:
            action, growth = _held(columns, "action"), np.diff(_held(columns, "state_age"))
            clocks |= (action[1:] == action[:-1]) & (growth > 0) & (growth < FASTEST_CLOCK)
            if self.has_hitlag:
                hitlag = _held(columns, "hitlag")
                freezes &= (hitlag[:-1] > 0) & (hitlag[1:] == hitlag[:-1] - 1)
        return clocks | freezes

    def stands(self, player: int, row: int, other_row: int) -> bool:
        """Whether a player's action and its clock are the same in two rows."""
        action, age = self.actions[player], self.ages[player]
        return action[row] == action[other_row] and age[row] == age[other_row]

    def may_freeze(self, player: int, row: int) -> bool:
        """Whether hitlag can stop a player in a row: his own, or that of the one who holds him."""
        held = self.actions[player][row] in HELD_ACTIONS
        return self.hitlags[player][row] > 0 or (held and self.hitlags[1 - player][row] > 0)


def _walk(play: _Play, recorders: Sequence[int]) -> _Walk:
    """Follow the rows, going back wherever one is a repeat.

    Args:
        recorders: players who may have recorded the game.
    """
    walk = _Walk()
    rows = walk.rows
    open_rows = np.flatnonzero(~play.goes_on())
    for last in open_rows[open_rows >= FIRST_SENT_AGAIN].tolist():
        rows.extend(range(rows[-1] + 1 if rows else 0, last + 1))
        found = [(frames_back, player) for player in recorders for frames_back in _goes_back(play, rows, player)]
        if len({frames_back for frames_back, _ in found}) > 1:
            walk.is_ambiguous = True
        elif found:
            frames_back = found[0][0]
            walk.repeats.append(_Repeat(row=last + 1, frames_back=frames_back, recorders=[r for _, r in found]))
            del rows[-frames_back:]
            rows.append(last + 1)
    rows.extend(range(rows[-1] + 1 if rows else 0, play.num_rows))
    return walk


def _goes_back(play: _Play, rows: list[int], recorder: int) -> Iterator[int]:
    """By how many frames the row after `rows[-1]` may go back, replacing `rows[-frames_back]` and those after it."""
    last, row = rows[-1], rows[-1] + 1
    own, foreseen = play.controllers[recorder], play.controllers[1 - recorder]
    for frames_back in range(1, min(MAX_FRAMES_BACK, len(rows) - 1) + 1):
        replaced, before = rows[-frames_back], rows[-frames_back - 1]
        if foreseen[before] != foreseen[last] and len(rows) > FIRST_FORESEEN:
            return  # it was not held over all of the frames
        if own[row] != own[replaced]:
            continue
        if foreseen[row] == foreseen[replaced]:
            is_consistent = all(state[row] == state[replaced] for state in play.states)
        else:
            is_consistent = _did_the_same(play, recorder, row, replaced)
        if is_consistent and any(_is_again(play, player, row, replaced, before) for player in range(NUM_PLAYERS)):
            yield frames_back


def _did_the_same(play: _Play, recorder: int, row: int, replaced: int) -> bool:
    """Whether the recorder's state is what he did before, but for what the other does to him."""
    if play.states[recorder][row] == play.states[recorder][replaced]:
        return True
    columns = play.columns[recorder]
    return play.stands(recorder, row, replaced) and all(
        (values := columns[name]) is None or name in MOVED_BY_OTHERS or values[row] == values[replaced]
        for name in POST_COLUMNS
    )


def _is_again(play: _Play, player: int, row: int, replaced: int, before: int) -> bool:
    """Whether a player is in `row` as he was in `replaced`, though play would have moved him on."""
    last = row - 1
    state, age, action = play.states[player], play.ages[player], play.actions[player]
    is_back = state[row] == state[replaced] != state[before]
    if (not is_back and not play.stands(player, row, replaced)) or action[replaced] in HOLDING_ACTIONS:
        return False
    if is_back and replaced != last and state[row] != state[last]:
        return True
    is_free = not (play.may_freeze(player, last) or play.may_freeze(player, row))
    if is_back and replaced == last and (is_free or play.hitlags[player][row] > 0):  # hitlag would have counted down
        return True
    ticked = action[before] == action[replaced] and 0 < age[replaced] - age[before] < FASTEST_CLOCK
    has_left = replaced == last or age[row] != age[last]
    return is_free and ticked and has_left and play.stands(player, row, replaced)


def _stalls_once(play: _Play, found: _Walk) -> bool:
    """Whether players stand still for one row only, which no hit makes them do: both of them, in play without hitlag.

    Where velocities are there (Slippi 3.5 on, when netplay began to roll back) one of them is enough.
    """
    alone = []
    for columns in play.columns:
        action, age = _held(columns, "action"), _held(columns, "state_age")
        standing = (action[1:] == action[:-1]) & (age[1:] == age[:-1])
        padded = np.concatenate([[False], standing, [False]])
        alone.append(standing & ~padded[:-2] & ~padded[2:])
    has_velocity = play.columns[0][VELOCITY_COLUMNS[0]] is not None
    suspect = alone[0] | alone[1] if has_velocity else alone[0] & alone[1]
    return any(repeat.frames_back > 1 or suspect[repeat.row - 1] for repeat in found.repeats)


def _lengths_hold(players: Sequence[Columns], rows: np.ndarray | None) -> bool:
    """Whether every action of ACTION_LENGTHS that comes to an end lasted as long as it does."""
    for columns in players:
        action = _held(columns, "action") if rows is None else _held(columns, "action")[rows]
        starts = np.concatenate([[0], np.flatnonzero(action[1:] != action[:-1]) + 1])
        lengths, begun = np.diff(starts), action[starts[:-1]]
        if not all(np.isin(lengths[begun == code], allowed).all() for code, allowed in ACTION_LENGTHS.items()):
            return False
    return True


def _held(columns: Columns, name: str) -> np.ndarray:
    values = columns[name]
    assert values is not None
    return values


def _digests(columns: Columns, names: Sequence[str] | dict) -> np.ndarray:
    """uint64 (rows,): equal where all the columns are, bit by bit."""
    digests = np.zeros(len(_held(columns, "action")), dtype=np.uint64)
    weights = np.random.default_rng(0).integers(1 << 63, size=len(names), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for name, weight in zip(names, weights, strict=True):
        if (values := columns[name]) is not None:
            bits = values.view(np.uint32) if values.dtype == np.float32 else values
            digests += bits.astype(np.uint64) * weight
    return digests
