"""Deduplication: which games of a chunk are new to the corpus.

The same game may come again with the same bytes, with other bytes, or as .slp after a parsed form. A .slp replaces
the parsed form that an older pipeline made of the game; every other repetition is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.corpus.commit_files import DROP_MESSAGES, Row, reject_row
from datasets.corpus.known_games import KnownGame, KnownGames

SLP = "slp"
"""`games.form` of a game that nothing replaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What happens to a chunk's games, and to older games because of them."""

    keep: list[bool]
    """For each game of the chunk, whether it is kept."""
    rejects: list[Row]
    """Reject rows of the other games, in order."""
    replaced: list[KnownGame]
    """Games of earlier commits that must be removed from them."""


def resolve(known: KnownGames, number: int, games: Sequence[Row]) -> Resolution:
    """Resolve a chunk's games in order, and add those that are kept to the known games.

    Args:
        known: games of all earlier commits; updated with this chunk's.
        number: of the chunk's commit.
    """
    outcomes: list[tuple[str, str] | None] = [None] * len(games)
    index_of: dict[str, int] = {}
    replaced: list[KnownGame] = []
    for index, row in enumerate(games):
        game = KnownGame(row["game_id"], row["fingerprint"], row["num_frames"], row["form"] != SLP, number)
        matches = known.matches(game.game_id, game.fingerprint)
        for match in [] if game.is_parsed else [match for match in matches if match.is_parsed]:
            matches.remove(match)
            if match.commit == number:
                known.remove(match)
                outcomes[index_of[match.game_id]] = ("replaced", DROP_MESSAGES["replaced"])
            else:
                known.drop(match, "replaced")
                replaced.append(match)
        if matches:
            code = "duplicate" if matches[0].game_id == game.game_id else "duplicate_game"
            outcomes[index] = (code, f"the corpus has this game as {matches[0].game_id}")
        else:
            known.add([game])
            index_of[game.game_id] = index
    return Resolution(
        keep=[outcome is None for outcome in outcomes],
        rejects=[reject_row(row, *outcome) for row, outcome in zip(games, outcomes, strict=True) if outcome],
        replaced=replaced,
    )
