"""Deduplication: which games of a chunk are new to the corpus.

The same game may come again with the same bytes, with other bytes, or as .slp after a parsed form. A .slp replaces
the parsed form that an older pipeline made of the game; every other repetition is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.runtime.version import tool_version

SLP = "slp"
"""`games.form` of a game that nothing replaces."""
ORIGIN = ("source", "member", "path", "key", "location_key")
REPLACED = "replaced"
REPLACED_MESSAGE = "replaced by its .slp"

Row = dict[str, Any]
"""A row of the games or rejects table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What happens to a chunk's games, and to older games because of them."""

    kept: list[Row]
    """Rows of the chunk's games that are new."""
    rejects: list[Row]
    """Reject rows of its other games, in order; then those of the games of earlier chunks that it replaces."""
    replaced: list[KnownGame]
    """Games of earlier chunks that are no longer part of the corpus."""


def duplicate_message(game_id: str) -> str:
    """Message of the reject of an input that repeats a game."""
    return f"the corpus has this game as {game_id}"


def reject_row(origin: Row, game_id: str | None, code: str, message: str) -> Row:
    """A row of the rejects table.

    Args:
        origin: has the fields ORIGIN; those that it lacks become null.
    """
    facts = {"game_id": game_id, "code": code, "message": message, "tool_version": tool_version()}
    return {name: origin.get(name) for name in ORIGIN} | facts


def resolve(known: KnownGames, games: Sequence[Row]) -> Resolution:
    """Resolve a chunk's games in order, add those that are kept to the known games, and remove those they replace."""
    seen_ids = known.known_values("game_id", [row["game_id"] for row in games])
    seen_prints = known.known_values("fingerprint", [row["fingerprint"] for row in games])
    outcomes: list[tuple[str, str] | None] = [None] * len(games)
    index_of: dict[str, int] = {}
    new: list[KnownGame] = []
    replaced: list[KnownGame] = []
    for index, row in enumerate(games):
        parsed = None if row["form"] == SLP else {name: row.get(name) for name in (*ORIGIN, "shard")}
        game = KnownGame(row["game_id"], row["fingerprint"], row["num_frames"], parsed)
        if game.game_id in seen_ids or game.fingerprint in seen_prints:
            known.add(new)
            new = []
            matches = known.matches(game.game_id, game.fingerprint)
            if parsed is None:
                for match in [match for match in matches if match.parsed is not None]:
                    matches.remove(match)
                    known.remove(match.game_id)
                    if match.game_id in index_of:
                        outcomes[index_of.pop(match.game_id)] = (REPLACED, REPLACED_MESSAGE)
                    else:
                        replaced.append(match)
            if matches:
                code = "duplicate" if matches[0].game_id == game.game_id else "duplicate_game"
                outcomes[index] = (code, duplicate_message(matches[0].game_id))
                continue
        new.append(game)
        index_of[game.game_id] = index
        seen_ids.add(game.game_id)
        seen_prints.add(game.fingerprint)
    known.add(new)
    pairs = list(zip(games, outcomes, strict=True))
    rejects = [reject_row(row, row["game_id"], *outcome) for row, outcome in pairs if outcome]
    rejects += [reject_row(game.parsed or {}, game.game_id, REPLACED, REPLACED_MESSAGE) for game in replaced]
    return Resolution(kept=[row for row, outcome in pairs if not outcome], rejects=rejects, replaced=replaced)
