"""Checks of what the Slippi specification states (SPEC.md), and of what no game of Melee can do. They refuse a game."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck, Violation
from datasets.checks.player_timeline import REBIRTH, PlayerTimeline, frames_where
from datasets.replays.game import Game
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.melee_ids import INTERNAL_CHARACTERS, SHEIK, ZELDA

MAX_STEP = 100.0
"""Maximum distance per frame, in game units: half of a stage's width, except by death and respawn. Measured: 34."""

NO_FRAMES = np.empty(0, np.int64)


def cut_short(game: Game) -> Iterator[Violation]:
    """The last frame is that of the metadata (SPEC.md, The metadata element: lastFrame)."""
    last_frame = game.num_frames - 1 + FIRST_FRAME_ID
    expected = None if game.cross_check is None else game.cross_check.last_frame
    if expected is not None and expected > last_frame:
        message = f"the last frame is {last_frame}, but {expected} in the metadata"
        yield Violation(code="cut_short", message=message, frames=NO_FRAMES)


def _stocks(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Stocks decrease, by one at a time."""
    stocks = timeline["stocks"]
    changes = frames_where(stocks[1:] != stocks[:-1]) + 1
    wrong = changes[stocks[changes].astype(np.int16) != stocks[changes - 1].astype(np.int16) - 1]
    if len(wrong):
        yield "stocks_jump", f"stocks change from {stocks[wrong[0] - 1]} to {stocks[wrong[0]]}", wrong


def _character(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The character is the selected one. Zelda and Sheik can switch."""
    if timeline.character >= len(INTERNAL_CHARACTERS):
        return
    expected = {INTERNAL_CHARACTERS[timeline.character]}
    if not expected.isdisjoint({SHEIK, ZELDA}):
        expected = {SHEIK, ZELDA}
    character = timeline["character"]
    if not {int(character.min()), int(character.max())} <= expected:
        wrong = frames_where(~np.isin(character, list(expected)))
        yield "character_mismatch", f"character {character[wrong[0]]}, expected {min(expected)}", wrong


def _facing(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Facing is -1, 0 or 1 (SPEC.md, Post-Frame Update: facing direction)."""
    off = {} if timeline.cross_check is None else timeline.cross_check.off_grid
    if "facing" in off:
        yield "bad_values", "facing is not -1, 0 or 1", off["facing"]


def _displacement(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Nobody moves by more than MAX_STEP in a frame, except by death and respawn."""
    action = timeline["action"]
    for name in ("x", "y"):
        values = timeline[name]
        jumps = frames_where(np.abs(values[1:] - values[:-1]) > MAX_STEP) + 1
        jumps = jumps[(action[jumps] > REBIRTH) & (action[jumps - 1] > REBIRTH)]
        if len(jumps):
            yield "position_jump", f"{name} jumps from {values[jumps[0] - 1]:g} to {values[jumps[0]]:g}", jumps


SPECIFICATION_CHECKS = (
    PlausibilityCheck(find=_stocks, columns=frozenset({"stocks"}), applies_to_followers=True),
    PlausibilityCheck(find=_character, columns=frozenset({"character"})),
    PlausibilityCheck(find=_facing, columns=frozenset()),
    PlausibilityCheck(find=_displacement, columns=frozenset({"x", "y", "action"}), applies_to_followers=True),
)
