"""Detects rollback frames in recordings without frame ids: the older pipelines kept resimulated rows but no ids.

Netplay predicts that the remote player's inputs stay as they were, and resimulates frames once a prediction proves
wrong. A recording then holds f, .., g, f', .., g', g+1, ..: the row after g goes back by some frames and replaces
those. Of the 16,710 such rows in the 31 real games that have any, and hitlag, all but 3 have

- the local player's inputs equal to those of the row that they replace;
- constant remote inputs in the replaced rows and the row before them;
- if the remote inputs are equal too, the same state.

A row counts as resimulated if these hold and a player is in a state that normal play cannot reach: outside of hitlag
the state age stops or decreases, or the whole state returns to an earlier one. On the 115 real games
(`tests/support/rollback_trials.py`) 117 of 18,714 replaced rows remain, and no final row is lost. Undetected are mostly
unpredicted throws and hits, which look like normal hits. So a game with more than a few rollbacks is not certain, nor
is one in which an action of fixed length is too long. All 76 games without rollbacks are certain, and 5 of the 39 with
some; each of the 81 has exactly the frames of its replay. Of 1,980 recordings made with 1 to 3 rollbacks, 4 were
certain but had extra rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets.replays.game import Columns
from datasets.schema.columns import FIRST_FRAME_ID, NUM_PLAYERS, POST_COLUMNS, PRE_COLUMNS, VELOCITY_COLUMNS

MAX_FRAMES_BACK = 8
"""Netplay rolls back at most 7 frames; the maximum in the real games is 6."""
MAX_CERTAIN_ROLLBACKS = 3
"""With this many detected rollbacks, about 1 recording in 500 holds an undetected one; with 20 it would be 1 in 20."""
MAX_STATE_AGE_STEP = 4.5
"""Maximum increase of the state age in a frame of normal play; no resimulated row has an increase up to this."""
FIRST_ROLLBACK = -60 - FIRST_FRAME_ID
"""Frame number before which no rollback starts: inputs take effect from id -39 on; the first observed one is at -45."""
FIRST_PREDICTED = -30 - FIRST_FRAME_ID
"""Frame number from which the row before a rollback must have the predicted remote inputs, too."""

ENTRY_LENGTHS = {322: (5, 10, 15, 20), 323: (29,), 324: (30,)}
"""Action states of the countdown -> possible lengths in frames."""
ACTION_LENGTHS = {0: (60,), 1: (60,), 2: (60,), 4: (176,), 12: (60,)} | ENTRY_LENGTHS
"""Action states of fixed length (deaths, respawn, countdown) -> frames, measured on the 115 real games."""
STATIONARY_ACTIONS = frozenset({*range(11), 202, 203, *ENTRY_LENGTHS})
"""Deaths, wall clings, the countdown: the state can stand still without hitlag."""
HELD_ACTIONS = range(223, 341)
"""Grabbed, thrown, swallowed: the state can stand still while the other player is in hitlag."""
CHANGED_BY_REMOTE = frozenset({"x", "y", "last_attack", "combo", "hitlag"})
"""Columns of the local player that another remote action can change: by a push, or an attack that meets another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalRows:
    """The final row of each frame of a recording."""

    rows: np.ndarray | None
    """int64 (frames,), ascending; None if every row is final."""
    is_certain: bool
    """Whether these are, as far as can be detected, exactly the frames of the replay."""


def find_final_rows(players: Sequence[Columns]) -> FinalRows:
    """Find the rows that no resimulated row replaces.

    Without hitlag (Slippi before 3.8) a resimulated row looks like a hit. All rows are then kept, and a game is
    uncertain if players stand still for a single row.

    Args:
        players: both players' columns, with every row in recording order.
    """
    if players[0]["state_age"] is None:
        return FinalRows(rows=None, is_certain=False)
    recording = _Recording(players)
    first = scan = _scan(recording, local_players=range(NUM_PLAYERS))
    if not recording.has_hitlag:
        is_certain = not _has_single_row_stall(players, scan) and _has_fixed_lengths(players, None)
        return FinalRows(rows=None, is_certain=is_certain)
    votes = Counter(rollback.local_players[0] for rollback in scan.rollbacks if len(rollback.local_players) == 1)
    if len(votes) > 1 or scan.is_ambiguous:
        scan = _scan(recording, local_players=[player for player, _ in votes.most_common(1)] or range(NUM_PLAYERS))
    rows = np.array(scan.rows, dtype=np.int64) if scan.rollbacks else None
    is_certain = (
        len(scan.rollbacks) <= MAX_CERTAIN_ROLLBACKS
        and not scan.is_ambiguous
        and {rollback.row for rollback in first.rollbacks} <= {rollback.row for rollback in scan.rollbacks}
        and _has_fixed_lengths(players, rows)
    )
    return FinalRows(rows=rows, is_certain=is_certain)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """The first resimulated row after a misprediction."""

    row: int
    frames_back: int
    local_players: list[int]
    """The players for whom the row looks resimulated if they are the local one."""


@dataclass(kw_only=True, slots=True)
class RollbackScan:
    """The result of one pass over the rows of a recording."""

    rows: list[int] = field(default_factory=list)
    """The final row of each frame."""
    rollbacks: list[Rollback] = field(default_factory=list)
    is_ambiguous: bool = False
    """Whether some row could go back by different numbers of frames."""


class _Recording:
    """The rows of a game, as lists: reading single items of a list is faster than of an array."""

    def __init__(self, players: Sequence[Columns]) -> None:
        self.columns = players
        self.num_rows = len(_column(players[0], "action"))
        self.has_hitlag = all(columns["hitlag"] is not None for columns in players)
        self.actions = [_column(columns, "action").tolist() for columns in players]
        self.ages = [_column(columns, "state_age").tolist() for columns in players]
        no_hitlag = [0.0] * self.num_rows
        self.hitlags = [_column(columns, "hitlag").tolist() if self.has_hitlag else no_hitlag for columns in players]
        self.inputs = [_row_hashes(columns, PRE_COLUMNS).tolist() for columns in players]
        self.states = [_row_hashes(columns, POST_COLUMNS).tolist() for columns in players]

    def is_next_frame(self) -> np.ndarray:
        """bool (rows - 1,): whether the next row must be the next frame, by a state age or by both hitlags."""
        age_advances = np.zeros(self.num_rows - 1, dtype=bool)
        hitlag_counts = np.full(self.num_rows - 1, self.has_hitlag)
        for columns in self.columns:
            action, step = _column(columns, "action"), np.diff(_column(columns, "state_age"))
            age_advances |= (action[1:] == action[:-1]) & (step > 0) & (step < MAX_STATE_AGE_STEP)
            if self.has_hitlag:
                hitlag = _column(columns, "hitlag")
                hitlag_counts &= (hitlag[:-1] > 0) & (hitlag[1:] == hitlag[:-1] - 1)
        return age_advances | hitlag_counts

    def same_animation_frame(self, player: int, row: int, other_row: int) -> bool:
        """Whether a player has the same action state and state age in two rows."""
        action, age = self.actions[player], self.ages[player]
        return action[row] == action[other_row] and age[row] == age[other_row]

    def may_be_in_hitlag(self, player: int, row: int) -> bool:
        """Whether the player's own hitlag, or that of the player who holds it, may stop it in a row."""
        is_held = self.actions[player][row] in HELD_ACTIONS
        return self.hitlags[player][row] > 0 or (is_held and self.hitlags[1 - player][row] > 0)


def _scan(recording: _Recording, local_players: Sequence[int]) -> RollbackScan:
    """Follow the rows, going back by some frames at each resimulated row.

    Args:
        local_players: the players who may be the local one.
    """
    scan = RollbackScan()
    rows = scan.rows
    candidates = np.flatnonzero(~recording.is_next_frame())
    for last in candidates[candidates >= FIRST_ROLLBACK].tolist():
        rows.extend(range(rows[-1] + 1 if rows else 0, last + 1))
        found = [(back, player) for player in local_players for back in _possible_frames_back(recording, rows, player)]
        if len({frames_back for frames_back, _ in found}) > 1:
            scan.is_ambiguous = True
        elif found:
            frames_back = found[0][0]
            players = [player for _, player in found]
            scan.rollbacks.append(Rollback(row=last + 1, frames_back=frames_back, local_players=players))
            del rows[-frames_back:]
            rows.append(last + 1)
    rows.extend(range(rows[-1] + 1 if rows else 0, recording.num_rows))
    return scan


def _possible_frames_back(recording: _Recording, rows: list[int], local: int) -> Iterator[int]:
    """By how many frames the row after `rows[-1]` may go back, replacing `rows[-frames_back:]`."""
    last, row = rows[-1], rows[-1] + 1
    local_inputs, remote_inputs = recording.inputs[local], recording.inputs[1 - local]
    for frames_back in range(1, min(MAX_FRAMES_BACK, len(rows) - 1) + 1):
        replaced, before = rows[-frames_back], rows[-frames_back - 1]
        if remote_inputs[before] != remote_inputs[last] and len(rows) > FIRST_PREDICTED:
            return  # not the same predicted inputs over all of these frames
        if local_inputs[row] != local_inputs[replaced]:
            continue
        if remote_inputs[row] == remote_inputs[replaced]:
            is_consistent = all(state[row] == state[replaced] for state in recording.states)
        else:
            is_consistent = _same_local_state(recording, local, row, replaced)
        if is_consistent and any(
            _is_resimulated(recording, player, row, replaced, before) for player in range(NUM_PLAYERS)
        ):
            yield frames_back


def _same_local_state(recording: _Recording, local: int, row: int, replaced: int) -> bool:
    """Whether the local player's state is that of the replaced row, except for what the remote player can change."""
    if recording.states[local][row] == recording.states[local][replaced]:
        return True
    columns = recording.columns[local]
    return recording.same_animation_frame(local, row, replaced) and all(
        (values := columns[name]) is None or name in CHANGED_BY_REMOTE or values[row] == values[replaced]
        for name in POST_COLUMNS
    )


def _is_resimulated(recording: _Recording, player: int, row: int, replaced: int, before: int) -> bool:
    """Whether a player is in the state of `replaced` again, which normal play from `row - 1` cannot reach."""
    last = row - 1
    state, age, action = recording.states[player], recording.ages[player], recording.actions[player]
    same_state = state[row] == state[replaced] != state[before]
    same_animation_frame = recording.same_animation_frame(player, row, replaced)
    if action[replaced] in STATIONARY_ACTIONS or not (same_state or same_animation_frame):
        return False
    no_hitlag = not (recording.may_be_in_hitlag(player, last) or recording.may_be_in_hitlag(player, row))
    if same_state and replaced != last and state[row] != state[last]:
        return True
    if same_state and replaced == last and (no_hitlag or recording.hitlags[player][row] > 0):  # hitlag counts down
        return True
    advanced = action[before] == action[replaced] and 0 < age[replaced] - age[before] < MAX_STATE_AGE_STEP
    age_changes = replaced == last or age[row] != age[last]
    return no_hitlag and same_animation_frame and advanced and age_changes


def _has_single_row_stall(players: Sequence[Columns], scan: RollbackScan) -> bool:
    """Whether the players stand still for a single row, which no hit causes: both of them, in play without hitlag.

    If velocities are recorded (from Slippi 3.5, the first with rollback netplay), one player is enough.
    """
    stalls = []
    for columns in players:
        action, age = _column(columns, "action"), _column(columns, "state_age")
        still = (action[1:] == action[:-1]) & (age[1:] == age[:-1])
        padded = np.concatenate([[False], still, [False]])
        stalls.append(still & ~padded[:-2] & ~padded[2:])
    has_velocity = players[0][VELOCITY_COLUMNS[0]] is not None
    suspect = stalls[0] | stalls[1] if has_velocity else stalls[0] & stalls[1]
    return any(rollback.frames_back > 1 or suspect[rollback.row - 1] for rollback in scan.rollbacks)


def _has_fixed_lengths(players: Sequence[Columns], rows: np.ndarray | None) -> bool:
    """Whether every completed action of ACTION_LENGTHS has one of its lengths."""
    for columns in players:
        action = _column(columns, "action") if rows is None else _column(columns, "action")[rows]
        starts = np.concatenate([[0], np.flatnonzero(action[1:] != action[:-1]) + 1])
        lengths, completed = np.diff(starts), action[starts[:-1]]
        if not all(np.isin(lengths[completed == code], allowed).all() for code, allowed in ACTION_LENGTHS.items()):
            return False
    return True


def _column(columns: Columns, name: str) -> np.ndarray:
    values = columns[name]
    assert values is not None
    return values


def _row_hashes(columns: Columns, names: Sequence[str] | dict) -> np.ndarray:
    """uint64 (rows,): equal for rows whose columns are bitwise equal."""
    hashes = np.zeros(len(_column(columns, "action")), dtype=np.uint64)
    weights = np.random.default_rng(0).integers(1 << 63, size=len(names), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    for name, weight in zip(names, weights, strict=True):
        if (values := columns[name]) is not None:
            bits = values.view(np.uint32) if values.dtype == np.float32 else values
            hashes += bits.astype(np.uint64) * weight
    return hashes
