"""Metadata of parsed games, from the `meta.json` beside them: read as a stream, kept on disk, without personal names.

One entry per game, up to a kilobyte each: 300,000 of them would take a gigabyte as Python objects.
"""

from __future__ import annotations

import codecs
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

GAME_ID = re.compile(r"[0-9a-f]{32}")
"""Name of a game that an older pipeline parsed: the md5 of its .slp."""
GAME_FIELDS = (
    "num_frames", "lastFrame", "slippi_version", "num_players", "stage", "timer", "is_teams", "winner", "is_training",
    "valid", "is_pal", "game_end_method", "startAt", "compression", "pq_size", "slp_size",
)  # fmt: skip
"""Fields of an entry that are kept; source_file, name and raw are file names and are dropped."""
MATCH_FIELDS = ("id", "game", "tiebreaker")
PLAYER_FIELDS = ("port", "character", "type", "damage_taken")
"""Fields of an entry's players that are kept; name_tag and netplay name a person and are dropped."""
MAX_ENTRY_CHARACTERS = 1 << 20
CACHE_KIB = 8 * 1024
BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty only at the end."""
        ...


class Metadata:
    """Entries by game id (the md5 of the .slp), in a temporary database that spills to disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE entries (game_id TEXT PRIMARY KEY, entry TEXT) WITHOUT ROWID")

    def read(self, file: Readable) -> None:
        """Add all entries of a file.

        Raises:
            ValueError: the file is no JSON list of objects; the entries before the error are kept.
            EOFError: the list is cut off.
            Exception: what reading the file raises.
        """
        self.add(rows(iter(partial(file.read, BLOCK_BYTES), b"")))

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add entries, each a game id and its fields as JSON; those before an error are kept."""
        self._database.execute("BEGIN")
        try:
            self._database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", rows)
        finally:
            self._database.execute("COMMIT")

    unread: tuple[str, str] | None = None
    """Reason code and message if the file cannot be read for now."""

    def get(self, game_id: str) -> dict[str, Any] | None:
        """Metadata of a game, None if there is none."""
        row = self._database.execute("SELECT entry FROM entries WHERE game_id = ?", (game_id,)).fetchone()
        return None if row is None else json.loads(row[0])


def rows(blocks: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """Game id and kept fields, as JSON, of each entry of a file that comes in blocks; raises as `entries`."""
    for entry in entries(blocks):
        game_id = entry.get("slp_md5")
        if isinstance(game_id, str) and GAME_ID.fullmatch(game_id):
            yield game_id, json.dumps(kept_fields(entry))


def kept_fields(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of an entry that are needed. None of them names a person or a file."""
    kept = {name: entry[name] for name in GAME_FIELDS if name in entry}
    if isinstance(entry.get("match"), dict):
        kept["match"] = {name: entry["match"][name] for name in MATCH_FIELDS if name in entry["match"]}
    if isinstance(entry.get("players"), list):
        players = [player for player in entry["players"] if isinstance(player, dict)]
        kept["players"] = [{name: player[name] for name in PLAYER_FIELDS if name in player} for player in players]
    return kept


def entries(blocks: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one by one.

    Raises:
        ValueError: the text is no JSON list of objects.
        EOFError: the list is cut off.
    """
    decoder = json.JSONDecoder()
    decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
    text, is_open = "", False
    while True:
        block = next(blocks, b"")
        text += decode(block, not block)
        position = 0
        while True:
            position = _skip(text, position, " \t\r\n,")
            if not is_open and text.startswith("[", position):
                is_open, position = True, position + 1
                continue
            if position == len(text):
                break
            if is_open and text[position] == "]":
                return
            if not is_open or text[position] != "{":
                raise ValueError("not a JSON list of objects")
            try:
                entry, position = decoder.raw_decode(text, position)
            except json.JSONDecodeError:
                if not block or len(text) - position > MAX_ENTRY_CHARACTERS + BLOCK_BYTES:
                    raise
                break
            yield entry
        text = text[position:]
        if not block:
            raise EOFError("the list is cut off")


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position
