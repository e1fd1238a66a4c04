"""Which games a corpus has, in bounded memory: a private database on disk, filled from the commits at each start.

At 300,000 games it takes 18 MB of memory and 31 MB of temporary disk, and is filled in seconds
(`benchmarks/corpus.py` prints them).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

CACHE_KIB = 16 * 1024
"""What the database may keep in memory; the rest lies in a temporary file that the system removes."""


class KnownGame(NamedTuple):
    """One game of one commit."""

    game_id: str
    fingerprint: str
    num_frames: int
    is_parsed: bool
    """Read from an older pipeline's form, so that its .slp may replace it."""
    commit: int
    """Number of the commit that holds it."""


@dataclass(frozen=True, slots=True)
class DroppedGame:
    """A game that a commit still holds and must lose."""

    game_id: str
    code: str
    """Reason code of the reject that takes its place."""


class KnownGames:
    """The games of all commits, looked up by their bytes' id and by their fingerprint."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # an empty name is a private file, gone when it is closed
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

    def add(self, entries: Iterable[KnownGame]) -> None:
        """Enter games that a commit holds."""
        self._database.executemany(
            "INSERT INTO games VALUES (?, ?, ?, ?, ?, NULL)",
            ((bytes.fromhex(entry.game_id), bytes.fromhex(entry.fingerprint), *entry[2:]) for entry in entries),
        )

    def of_id(self, game_id: str) -> list[KnownGame]:
        """The game of an id, if a commit holds it."""
        return self._where("game_id", game_id)

    def twins(self, game_id: str, fingerprint: str) -> list[KnownGame]:
        """The games that are the same one: of the same id first, then of the same fingerprint; at most two."""
        found = self._where("game_id", game_id) + self._where("fingerprint", fingerprint)
        return list(dict.fromkeys(found))

    def _where(self, column: str, value: str) -> list[KnownGame]:
        rows = self._database.execute(
            f"SELECT {_columns('games')} FROM games WHERE {column} = ? AND dropped IS NULL", (bytes.fromhex(value),)
        )
        return list(map(_entry, rows))

    def repeats(self) -> list[KnownGame]:
        """Games that an earlier entry has already, by id or by fingerprint: none, but for damage from outside."""
        found: list[KnownGame] = []
        for column in ("game_id", "fingerprint"):
            rows = self._database.execute(
                f"SELECT {_columns('later')} FROM games AS later JOIN games AS first USING ({column}) "
                "WHERE first.rowid < later.rowid AND first.dropped IS NULL AND later.dropped IS NULL"
            )
            found += map(_entry, rows)
        return list(dict.fromkeys(found))

    def drop(self, entry: KnownGame, code: str) -> None:
        """Note that a commit must lose a game: it is no twin of any game from now on."""
        self._database.execute(
            "UPDATE games SET dropped = ? WHERE game_id = ? AND number = ? AND dropped IS NULL",
            (code, bytes.fromhex(entry.game_id), entry.commit),
        )

    def forget(self, entry: KnownGame) -> None:
        """Remove a game that was entered and will not be committed."""
        self._database.execute(
            "DELETE FROM games WHERE game_id = ? AND number = ?", (bytes.fromhex(entry.game_id), entry.commit)
        )

    def drops(self) -> Iterator[tuple[int, list[DroppedGame]]]:
        """What each commit must lose: (number of the commit, its games), in order of the numbers."""
        rows = self._database.execute(
            "SELECT number, game_id, dropped FROM games WHERE dropped IS NOT NULL ORDER BY number, game_id"
        )
        for number, group in groupby(rows, key=lambda row: row[0]):
            yield number, [DroppedGame(game_id.hex(), code) for _, game_id, code in group]

    def close(self) -> None:
        """Free the database."""
        self._database.close()


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in ("game_id", "fingerprint", "num_frames", "is_parsed", "number"))


def _entry(row: tuple[bytes, bytes, int, int, int]) -> KnownGame:
    game_id, fingerprint, num_frames, is_parsed, number = row
    return KnownGame(game_id.hex(), fingerprint.hex(), num_frames, bool(is_parsed), number)
