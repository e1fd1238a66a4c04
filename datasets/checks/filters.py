"""What is a training game: one against one, humans, a tournament stage, played in earnest.

Every reason for which an input is not taken has a code here; each ends as a row in `rejects/`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.checks.consistency import contradictions
from datasets.checks.trajectory import frames_where
from datasets.replays.game import Columns, Game
from datasets.runtime.errors import ReplayError
from datasets.schema.melee_ids import TOURNAMENT_STAGES

STICK_DEADZONE = 23
"""Main stick steps (of 80) below which the game itself reads neutral: 0.2875."""

PLAUSIBLE: dict[str, tuple[float, float]] = {
    "character": (0, 32), "action": (0, 1023), "x": (-2e3, 2e3), "y": (-2e3, 2e3), "facing": (-1, 1),
    "percent": (0, 999), "shield": (-1, 60), "last_hit_by": (0, 6), "stocks": (0, 99), "state_age": (-100, 1e4),
    "airborne": (0, 1), "jumps": (0, 6), "l_cancel": (0, 2), "hurtbox": (0, 2),
    "hitstun": (-100, 1e3), "hitlag": (0, 100),
    "self_air_x": (-100, 100), "self_y": (-100, 100), "attack_x": (-100, 100), "attack_y": (-100, 100),
    "self_ground_x": (-100, 100), "main_x": (-80, 80), "main_y": (-80, 80), "c_x": (-80, 80), "c_y": (-80, 80),
    "trigger": (0, 140),
}  # fmt: skip
"""Column -> what the game can make of it, with room to spare: damaged files often parse without an error."""

NEVER_TINY = frozenset({"state_age", "self_air_x", "self_y", "attack_x", "attack_y", "self_ground_x"})
"""Columns that are often 0."""
TINY = 1e-20
"""What is not 0 there is larger; the smallest seen is 4e-14. A damaged 0 is mostly smaller."""
TINY_BITS = int(np.float32(TINY).view(np.uint32))


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Which games are taken: by default two humans on a tournament stage, in earnest. What a source does not say of
    a game never speaks against it."""

    min_frames: int = 1_800
    """Shortest game, in frames (30 seconds)."""
    min_damage_percent: float = 30.0
    """Least damage that each player must have taken, in percent."""
    num_stocks: int = 4
    """Stocks at the start; 0 takes any number."""
    any_stage: bool = False
    """Take stages outside the six of tournaments."""
    allow_idle: bool = False
    """Take games in which a player never moved the main stick."""
    allow_cpu: bool = False
    """Take games with CPU players; their sticks are rounded to a controller's grid."""
    allow_items: bool = False
    """Take games with items on; they heal, so that damage is checked less."""
    allow_teams: bool = False
    """Take games that are set up as team games, of two players."""

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise ValueError(f"min_frames={self.min_frames}: a game has at least one frame")
        if self.min_damage_percent < 0:
            raise ValueError(f"min_damage_percent={self.min_damage_percent}: expected 0 or more")
        if not 0 <= self.num_stocks <= 99:
            raise ValueError(f"num_stocks={self.num_stocks}: expected 1 to 99, or 0 for any number")


def check_game(game: Game, filters: FilterConfig) -> None:
    """Refuse what is not a training game, or not a sound one.

    Raises:
        ReplayError: with the code of the first reason found and a message that names them all.
    """
    found = [*_settings(game, filters), *_play(game, filters), *_values(game), *contradictions(game)]
    if found:
        raise ReplayError(found[0][0], "; ".join(f"{code}: {text}" for code, text in found))


def _settings(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    facts = game.facts
    found = []
    if facts.is_teams and not filters.allow_teams:
        found.append(("teams", "a team game"))
    if any(player.is_human is False for player in facts.players) and not filters.allow_cpu:
        found.append(("cpu_player", "a player is not human"))
    if facts.has_items and not filters.allow_items:
        found.append(("items_on", "items are on"))
    if facts.stage not in TOURNAMENT_STAGES and not filters.any_stage:
        found.append(("odd_stage", f"stage {facts.stage}"))
    stocks = [player.stocks for player in facts.players if player.stocks is not None]
    if filters.num_stocks and any(number != filters.num_stocks for number in stocks):
        found.append(("odd_stocks", f"{' and '.join(map(str, stocks))} stocks, expected {filters.num_stocks}"))
    return found


def _play(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    found = []
    if game.num_frames < filters.min_frames:
        found.append(("short", f"{game.num_frames} frames, expected {filters.min_frames}"))
    damage = min(damage_taken(game, player) for player in range(len(game.players)))
    if damage < filters.min_damage_percent:
        found.append(("low_damage", f"a player took {damage:.0f} %, expected {filters.min_damage_percent:.0f}"))
    if not filters.allow_idle and any(_never_moved(columns) for columns in game.players):
        found.append(("idle_player", "a player never moved the main stick"))
    return found


def _never_moved(columns: Columns) -> bool:
    sticks = [columns[name] for name in ("main_x", "main_y")]
    return not any(
        stick.max() >= STICK_DEADZONE or stick.min() <= -STICK_DEADZONE for stick in sticks if stick is not None
    )


def _values(game: Game) -> list[tuple[str, str]]:
    every_columns: list[Columns] = [*game.players, *(follower.columns for follower in game.followers)]
    for columns in every_columns:
        for name, (lowest, highest) in PLAUSIBLE.items():
            values = columns[name]
            if values is None:
                continue
            greatest = np.maximum.reduce(values)
            least = 0 if values.dtype.kind == "u" else np.minimum.reduce(values)
            if not (lowest <= least and greatest <= highest):
                text = f"{name} runs from {values.min()} to {greatest}, expected {lowest} to {highest}"
                return [("bad_values", text)]
            if name in NEVER_TINY and _smallest_bits(values) < TINY_BITS:
                return [("bad_values", f"{name} is nearer to 0 than {TINY}, but not 0")]
    return []


def _smallest_bits(values: np.ndarray) -> int:
    """Bits of the smallest |value| that is not 0, without the sign; of floats these are ordered as the values are."""
    bits = values.view(np.uint32) << np.uint32(1)  # drops the sign
    bits -= np.uint32(2)  # 0 becomes the largest
    return int(np.minimum.reduce(bits)) // 2 + 1


def damage_taken(game: Game, player: int) -> float:
    """Sum of a player's rises in percent over the game; infinite where the source does not say."""
    percent = game.players[player]["percent"]
    if percent is None:
        return float("inf")
    falls = frames_where(percent[1:] < percent[:-1])
    with np.errstate(invalid="ignore", over="ignore"):  # damaged numbers are refused elsewhere
        fallen = (percent[falls].astype(np.float64) - percent[falls + 1]).sum()
        return float(percent[-1] - percent[0] + fallen)
