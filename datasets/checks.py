"""What is a training game: one against one, humans, a tournament stage, played in earnest.

Every reason for which an input is not taken has a code here; each ends as a row in `rejects/`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.errors import ReplayError
from datasets.game import Columns, Game
from datasets.schema import TOURNAMENT_STAGES

REASONS: dict[str, str] = {
    "unopenable": "the file or archive member cannot be read",
    "not_a_replay": "the bytes are not those of a .slp file",
    "unreadable": "the replay is cut off or malformed (the parser says where)",
    "parser_failed": "the parser gave up on the replay",
    "no_frames": "the replay holds no frames",
    "old_version": "Slippi before 2.0, which lacks fields that every encoding needs",
    "not_two_players": "more or fewer than two players",
    "odd_first_frame": "the game does not start at the countdown",
    "frame_gap": "frames are missing",
    "player_absent": "a player is missing in some frames",
    "bad_values": "numbers that are not finite or lie outside their range",
    "teams": "a team game",
    "cpu_player": "a player is not human",
    "items_on": "items are on",
    "odd_stage": "not a tournament stage",
    "odd_stocks": "not the expected number of stocks",
    "short": "too short",
    "low_damage": "a player took too little damage",
    "idle_player": "a player never moved the stick",
    "duplicate": "the same bytes are in the corpus already",
    "duplicate_game": "the same game is in the corpus already, in other bytes",
}
"""Reason code -> what it means. Codes are stable: users count by them."""

STICK_DEADZONE = 23
"""Main stick steps (of 80) below which the game itself reads neutral: 0.2875."""

PLAUSIBLE: dict[str, tuple[float, float]] = {
    "character": (0, 32), "action": (0, 1023), "x": (-1e4, 1e4), "y": (-1e4, 1e4), "percent": (0, 999),
    "shield": (-10, 100), "last_hit_by": (0, 6), "stocks": (0, 99), "state_age": (-1e3, 1e5),
    "airborne": (0, 1), "jumps": (0, 10), "l_cancel": (0, 2), "hurtbox": (0, 2),
    "hitstun": (-1e3, 1e4), "hitlag": (0, 1e3),
    "self_air_x": (-1e3, 1e3), "self_y": (-1e3, 1e3), "attack_x": (-1e3, 1e3), "attack_y": (-1e3, 1e3),
    "self_ground_x": (-1e3, 1e3), "main_x": (-80, 80), "main_y": (-80, 80), "c_x": (-80, 80),
    "c_y": (-80, 80), "trigger": (0, 140),
}  # fmt: skip
"""Column -> what the game can make of it, with room to spare: damaged files often parse without an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Which games are taken."""

    min_frames: int = 1_800
    """Shortest game, in frames (30 seconds)."""
    min_damage_percent: float = 30.0
    """Least damage that each player must have taken, in percent."""
    num_stocks: int = 4
    """Stocks at the start."""
    any_stage: bool = False
    """Take stages outside the six of tournaments."""


def check_game(game: Game, filters: FilterConfig) -> None:
    """Refuse what is not a training game.

    Raises:
        ReplayError: with the code of the first reason found and a message that names them all.
    """
    found = [*_settings(game, filters), *_play(game, filters), *_values(game)]
    if found:
        raise ReplayError(found[0][0], "; ".join(f"{code}: {text}" for code, text in found))


def _settings(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    facts = game.facts
    found = []
    if facts.is_teams:
        found.append(("teams", "a team game"))
    if any(player.is_human is False for player in facts.players):
        found.append(("cpu_player", "a player is not human"))
    if facts.has_items:
        found.append(("items_on", "items are on"))
    if facts.stage not in TOURNAMENT_STAGES and not filters.any_stage:
        found.append(("odd_stage", f"stage {facts.stage}"))
    stocks = [player.stocks for player in facts.players if player.stocks is not None]
    if any(number != filters.num_stocks for number in stocks):
        found.append(("odd_stocks", f"{' and '.join(map(str, stocks))} stocks, expected {filters.num_stocks}"))
    return found


def _play(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    found = []
    if game.num_frames < filters.min_frames:
        found.append(("short", f"{game.num_frames} frames, expected {filters.min_frames}"))
    damage = min(damage_taken(game, player) for player in range(len(game.players)))
    if damage < filters.min_damage_percent:
        found.append(("low_damage", f"a player took {damage:.0f} %, expected {filters.min_damage_percent:.0f}"))
    for columns in game.players:
        sticks = [columns["main_x"], columns["main_y"]]
        if all(np.abs(stick.astype(np.int16)).max() < STICK_DEADZONE for stick in sticks if stick is not None):
            found.append(("idle_player", "a player never moved the main stick"))
            break
    return found


def _values(game: Game) -> list[tuple[str, str]]:
    every_columns: list[Columns] = [*game.players, *(follower.columns for follower in game.followers)]
    for columns in every_columns:
        for name, (lowest, highest) in PLAUSIBLE.items():
            values = columns[name]
            if values is not None and not lowest <= values.min() <= values.max() <= highest:
                text = f"{name} runs from {values.min()} to {values.max()}, expected {lowest} to {highest}"
                return [("bad_values", text)]
    return []


def damage_taken(game: Game, player: int) -> float:
    """Sum of a player's rises in percent over the game."""
    percent = game.players[player]["percent"]
    assert percent is not None
    return float(np.clip(np.diff(percent), 0, None).sum())
