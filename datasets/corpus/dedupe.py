"""Which games of a chunk are new to the corpus: the same game comes again in the same bytes, in others, or as .slp.

A .slp takes the place of what an older pipeline made of the same game; everything else that comes again is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets.corpus.commit_files import Row
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.revision import MESSAGES, reject_row

SLP = "slp"
"""`games.form` of what nothing replaces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What becomes of a chunk's games, and of older ones by them."""

    keeps: list[bool]
    """For each game of the chunk whether it is taken."""
    rejects: list[Row]
    """For each other one, in order."""
    replaced: list[KnownGame]
    """Games of earlier commits that must leave them."""


def resolve(ledger: KnownGames, number: int, games: Sequence[Row]) -> Resolution:
    """Decide on a chunk's games in order, and enter those that are taken.

    Args:
        ledger: all games of earlier commits; afterwards with this chunk's, and without those that it replaces.
        number: of the chunk's commit.
    """
    outcomes: list[tuple[str, str] | None] = [None] * len(games)
    place_of: dict[str, int] = {}
    replaced: list[KnownGame] = []
    for place, game in enumerate(games):
        entry = KnownGame(game["game_id"], game["fingerprint"], game["num_frames"], game["form"] != SLP, number)
        twins = ledger.twins(entry.game_id, entry.fingerprint)
        for twin in [] if entry.is_parsed else [twin for twin in twins if twin.is_parsed]:
            twins.remove(twin)
            if twin.commit == number:
                ledger.forget(twin)
                outcomes[place_of[twin.game_id]] = ("replaced", MESSAGES["replaced"])
            else:
                ledger.drop(twin, "replaced")
                replaced.append(twin)
        if twins:
            code = "duplicate" if twins[0].game_id == entry.game_id else "duplicate_game"
            outcomes[place] = (code, f"the corpus has this game as {twins[0].game_id}")
        else:
            ledger.add([entry])
            place_of[entry.game_id] = place
    return Resolution(
        keeps=[outcome is None for outcome in outcomes],
        rejects=[reject_row(game, *outcome) for game, outcome in zip(games, outcomes, strict=True) if outcome],
        replaced=replaced,
    )
