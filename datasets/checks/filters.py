"""Which games are training games: one against one, two humans, a tournament stage, actively played."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.checks.plausibility import impossibilities, suspicions
from datasets.checks.plausibility_check import Violation
from datasets.checks.player_timeline import frames_where
from datasets.replays.game import Columns, Game
from datasets.runtime.errors import ReplayError
from datasets.schema.melee_ids import TOURNAMENT_STAGES

STICK_DEADZONE = 23
"""Main stick steps (of 80) below which the game reads the stick as neutral: 0.2875."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    """Which games are accepted. Metadata that a source does not record never rejects a game."""

    min_frames: int = 1_800
    """Minimum length of a game, in frames. The default is 30 seconds."""
    min_damage_percent: float = 30.0
    """Minimum damage that each player takes over the game, in percent."""
    num_stocks: int = 4
    """Stocks at the start; 0 accepts any number."""
    any_stage: bool = False
    """Accept stages other than the six tournament stages."""
    allow_idle: bool = False
    """Accept games in which a player never moves the main stick."""
    allow_cpu: bool = False
    """Accept games with CPU players. Their stick values are rounded to a controller's resolution."""
    allow_items: bool = False
    """Accept games with items on. Items heal, so percent is not checked in these games."""
    allow_teams: bool = False
    """Accept team games of two players."""
    strict: bool = False
    """Reject games that break a learned rule, too. By default they are stored with `suspect_rules`."""

    def __post_init__(self) -> None:
        if self.min_frames < 1:
            raise ValueError(f"min_frames={self.min_frames}: a game has at least one frame")
        if not 0 <= self.min_damage_percent < float("inf"):
            raise ValueError(f"min_damage_percent={self.min_damage_percent}: expected a finite number, 0 or more")
        if not 0 <= self.num_stocks <= 99:
            raise ValueError(f"num_stocks={self.num_stocks}: expected 1 to 99, or 0 for any number")


def check_game(game: Game, filters: FilterConfig) -> list[Violation] | None:
    """Reject a game that is not a training game, or whose values are not possible.

    Returns:
        The learned rules that an accepted game breaks; None if they were not checked.
    Raises:
        ReplayError: with the code of the first reason, and a message that lists every reason.
    """
    reasons = [*_settings(game, filters), *_activity(game, filters)]
    reasons += [(found.code, found.message) for found in impossibilities(game)]
    suspect = None if reasons and not filters.strict else suspicions(game)
    if filters.strict:
        reasons += [(found.code, found.message) for found in suspect or ()]
    if reasons:
        raise ReplayError(reasons[0][0], "; ".join(f"{code}: {text}" for code, text in reasons))
    return suspect


def _settings(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    """Reasons in the game's settings."""
    facts = game.facts
    reasons = []
    if facts.is_teams and not filters.allow_teams:
        reasons.append(("teams", "a team game"))
    if any(player.is_human is False for player in facts.players) and not filters.allow_cpu:
        reasons.append(("cpu_player", "a player is a CPU player"))
    if facts.has_items and not filters.allow_items:
        reasons.append(("items_on", "items are on"))
    if facts.stage not in TOURNAMENT_STAGES and not filters.any_stage:
        reasons.append(("odd_stage", f"stage {facts.stage}, expected a tournament stage"))
    stocks = [player.stocks for player in facts.players if player.stocks is not None]
    if filters.num_stocks and any(number != filters.num_stocks for number in stocks):
        reasons.append(("odd_stocks", f"{' and '.join(map(str, stocks))} stocks, expected {filters.num_stocks}"))
    return reasons


def _activity(game: Game, filters: FilterConfig) -> list[tuple[str, str]]:
    """Reasons in how the game was played."""
    reasons = []
    if game.num_frames < filters.min_frames:
        reasons.append(("short", f"{game.num_frames} frames, expected at least {filters.min_frames}"))
    damage = min(damage_taken(game, player) for player in range(len(game.players)))
    if damage < filters.min_damage_percent:
        reasons.append(
            ("low_damage", f"a player took {damage:.0f} % damage, expected at least {filters.min_damage_percent:.0f} %")
        )
    if not filters.allow_idle and any(_never_moved(columns) for columns in game.players):
        reasons.append(("idle_player", "a player never moves the main stick"))
    return reasons


def _never_moved(columns: Columns) -> bool:
    sticks = [columns[name] for name in ("main_x", "main_y")]
    return not any(
        stick.max() >= STICK_DEADZONE or stick.min() <= -STICK_DEADZONE for stick in sticks if stick is not None
    )


def damage_taken(game: Game, player: int) -> float:
    """Damage that a player takes over the game, in percent; infinite if the source does not record percent."""
    percent = game.players[player]["percent"]
    if percent is None:
        return float("inf")
    falls = frames_where(percent[1:] < percent[:-1])
    with np.errstate(invalid="ignore", over="ignore"):  # the range check rejects damaged values
        fallen = (percent[falls].astype(np.float64) - percent[falls + 1]).sum()
        return float(percent[-1] - percent[0] + fallen)
