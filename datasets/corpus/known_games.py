"""The games of all commits, indexed for deduplication in bounded memory: a private SQLite database on disk.

It is rebuilt from the commits at each start. At 300,000 games it takes 18 MB of memory and 31 MB of temporary disk,
and is filled in seconds (`benchmarks/corpus.py` prints them).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

CACHE_KIB = 16 * 1024
"""Page cache of the database; the rest is in a temporary file that SQLite deletes."""


class KnownGame(NamedTuple):
    """One game of one commit."""

    game_id: str
    fingerprint: str
    num_frames: int
    is_parsed: bool
    """Read from an older pipeline's form, so its .slp may replace it."""
    commit: int
    """Number of the commit that holds it."""


@dataclass(frozen=True, slots=True)
class DroppedGame:
    """A game that must be removed from the commit that holds it."""

    game_id: str
    code: str
    """Reason code of the reject that replaces it."""


class KnownGames:
    """The games of all commits, looked up by game id and by fingerprint."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # an empty name is a private temporary file, deleted on close
        self._database.executescript(
            f"""
            PRAGMA journal_mode = OFF;
            PRAGMA cache_size = -{CACHE_KIB};
            CREATE TABLE games (
                game_id BLOB, fingerprint BLOB, num_frames INTEGER, is_parsed INTEGER, number INTEGER, dropped TEXT
            );
            CREATE INDEX by_id ON games (game_id);
            CREATE INDEX by_fingerprint ON games (fingerprint);
            CREATE INDEX by_drop ON games (number) WHERE dropped IS NOT NULL;
            """
        )

    def add(self, games: Iterable[KnownGame]) -> None:
        """Insert games that a commit holds."""
        self._database.executemany(
            "INSERT INTO games VALUES (?, ?, ?, ?, ?, NULL)",
            ((bytes.fromhex(game.game_id), bytes.fromhex(game.fingerprint), *game[2:]) for game in games),
        )

    def with_id(self, game_id: str) -> list[KnownGame]:
        """The game with an id, if a commit holds it."""
        return self._where("game_id", game_id)

    def matches(self, game_id: str, fingerprint: str) -> list[KnownGame]:
        """Games with the same id, then those with the same fingerprint; at most two."""
        found = self._where("game_id", game_id) + self._where("fingerprint", fingerprint)
        return list(dict.fromkeys(found))

    def _where(self, column: str, value: str) -> list[KnownGame]:
        rows = self._database.execute(
            f"SELECT {_columns('games')} FROM games WHERE {column} = ? AND dropped IS NULL", (bytes.fromhex(value),)
        )
        return list(map(_known_game, rows))

    def duplicates(self) -> list[KnownGame]:
        """Games with the id or fingerprint of an earlier one. Only a corpus damaged from outside has any."""
        found: list[KnownGame] = []
        for column in ("game_id", "fingerprint"):
            rows = self._database.execute(
                f"SELECT {_columns('later')} FROM games AS later JOIN games AS first USING ({column}) "
                "WHERE first.rowid < later.rowid AND first.dropped IS NULL AND later.dropped IS NULL"
            )
            found += map(_known_game, rows)
        return list(dict.fromkeys(found))

    def drop(self, game: KnownGame, code: str) -> None:
        """Mark a game for removal from its commit; it matches no game from now on."""
        self._database.execute(
            "UPDATE games SET dropped = ? WHERE game_id = ? AND number = ? AND dropped IS NULL",
            (code, bytes.fromhex(game.game_id), game.commit),
        )

    def remove(self, game: KnownGame) -> None:
        """Delete a game that was added and will not be committed."""
        self._database.execute(
            "DELETE FROM games WHERE game_id = ? AND number = ?", (bytes.fromhex(game.game_id), game.commit)
        )

    def dropped_by_commit(self) -> Iterator[tuple[int, list[DroppedGame]]]:
        """Commit number and the games marked for removal from that commit, in order of the numbers."""
        rows = self._database.execute(
            "SELECT number, game_id, dropped FROM games WHERE dropped IS NOT NULL ORDER BY number, game_id"
        )
        for number, group in groupby(rows, key=lambda row: row[0]):
            yield number, [DroppedGame(game_id.hex(), code) for _, game_id, code in group]

    def close(self) -> None:
        """Close and delete the database."""
        self._database.close()


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in ("game_id", "fingerprint", "num_frames", "is_parsed", "number"))


def _known_game(row: tuple[bytes, bytes, int, int, int]) -> KnownGame:
    game_id, fingerprint, num_frames, is_parsed, number = row
    return KnownGame(game_id.hex(), fingerprint.hex(), num_frames, bool(is_parsed), number)
