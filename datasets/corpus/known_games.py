"""The games of a corpus, indexed for deduplication in bounded memory: a private SQLite database on disk.

It is rebuilt from the commits at each start. At 300,000 games it takes 18 MB of memory and 31 MB of temporary disk,
and is filled in seconds (`benchmarks/corpus.py` prints them).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

CACHE_KIB = 16 * 1024
"""Page cache of the database; the rest is in a temporary file that SQLite deletes."""


class KnownGame(NamedTuple):
    """One game of the corpus."""

    game_id: str
    fingerprint: str
    num_frames: int
    parsed: dict[str, Any] | None = None
    """Only of a game that was read from an older pipeline's form, so that its .slp may replace it: its origin and
    shard."""


class KnownGames:
    """The games of a corpus, looked up by game id and by fingerprint."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # an empty name is a private temporary file, deleted on close
        self._database.executescript(
            f"""
            PRAGMA journal_mode = OFF;
            PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE games (game_id BLOB, fingerprint BLOB, num_frames INTEGER, parsed TEXT);
            CREATE INDEX by_id ON games (game_id);
            CREATE INDEX by_fingerprint ON games (fingerprint);
            """
        )

    def add(self, games: Iterable[KnownGame]) -> None:
        """Insert games of the corpus."""
        self._database.executemany(
            "INSERT INTO games VALUES (?, ?, ?, ?)",
            (
                (bytes.fromhex(game_id), bytes.fromhex(fingerprint), num_frames, parsed and json.dumps(parsed))
                for game_id, fingerprint, num_frames, parsed in games
            ),
        )

    def with_id(self, game_id: str) -> list[KnownGame]:
        """The game with an id, if the corpus has it."""
        return self._where("game_id", game_id)

    def matches(self, game_id: str, fingerprint: str) -> list[KnownGame]:
        """Games with the same id, then those with the same fingerprint; at most two."""
        found = {game.game_id: game for game in self._where("game_id", game_id)}
        return list((found | {game.game_id: game for game in self._where("fingerprint", fingerprint)}).values())

    def _where(self, column: str, value: str) -> list[KnownGame]:
        rows = self._database.execute(f"SELECT * FROM games WHERE {column} = ?", (bytes.fromhex(value),))
        return [
            KnownGame(i.hex(), f.hex(), num_frames, parsed and json.loads(parsed)) for i, f, num_frames, parsed in rows
        ]

    def known_values(self, column: str, values: Sequence[str]) -> set[str]:
        """Those of some `game_id`s or `fingerprint`s that the corpus has: much faster than one lookup for each."""
        marks = ",".join("?" * len(values))
        found = self._database.execute(
            f"SELECT {column} FROM games WHERE {column} IN ({marks})", [bytes.fromhex(value) for value in values]
        )
        return {value.hex() for (value,) in found}

    def remove(self, game_id: str) -> None:
        """Delete a game that is no longer part of the corpus."""
        self._database.execute("DELETE FROM games WHERE game_id = ?", (bytes.fromhex(game_id),))

    def final_ids(self) -> Iterator[str]:
        """The ids of all games that nothing replaces."""
        rows = self._database.execute("SELECT game_id FROM games WHERE parsed IS NULL")
        return (game_id.hex() for (game_id,) in rows)

    def close(self) -> None:
        """Close and delete the database."""
        self._database.close()
