"""What the `meta.json` beside parsed games says of each: read as a stream, kept on disk, without what names a person.

One entry per game, up to a kilobyte each: 300,000 of them would take a gigabyte as Python objects.
"""

from __future__ import annotations

import codecs
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from datasets.sources.decompress import BLOCK_BYTES, Readable
from datasets.sources.names import GAME_ID

GAME_FIELDS = (
    "num_frames", "lastFrame", "slippi_version", "num_players", "stage", "timer", "is_teams", "winner", "is_training",
    "valid", "is_pal", "game_end_method", "startAt", "compression", "pq_size", "slp_size",
)  # fmt: skip
"""Fields of an entry that are kept; source_file, name and raw are file names."""
MATCH_FIELDS = ("id", "game", "tiebreaker")
PLAYER_FIELDS = ("port", "character", "type", "damage_taken")
"""Fields of an entry's players; name_tag and netplay name a person."""
MAX_ENTRY_CHARACTERS = 1 << 20
CACHE_KIB = 8 * 1024


class Metadata:
    """Entries by game id (the md5 of the .slp), in a temporary database that spills to disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE entries (game_id TEXT PRIMARY KEY, entry TEXT) WITHOUT ROWID")

    def read(self, file: Readable) -> None:
        """Take all entries of a file.

        Raises:
            ValueError: it is no list of objects in JSON; the entries before the fault are kept.
            what reading the file raises.
        """
        self._database.execute("BEGIN")
        try:
            for entry in entries(file):
                game_id = entry.get("slp_md5")
                if isinstance(game_id, str) and GAME_ID.fullmatch(game_id):
                    row = (game_id, json.dumps(kept_fields(entry)))
                    self._database.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", row)
        finally:
            self._database.execute("COMMIT")

    def get(self, game_id: str) -> dict[str, Any] | None:
        """What the file says of a game; None where it does not know it."""
        row = self._database.execute("SELECT entry FROM entries WHERE game_id = ?", (game_id,)).fetchone()
        return None if row is None else json.loads(row[0])


def kept_fields(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of an entry that are needed; none of them names a person or a file."""
    kept = {name: entry[name] for name in GAME_FIELDS if name in entry}
    if isinstance(entry.get("match"), dict):
        kept["match"] = {name: entry["match"][name] for name in MATCH_FIELDS if name in entry["match"]}
    if isinstance(entry.get("players"), list):
        players = [player for player in entry["players"] if isinstance(player, dict)]
        kept["players"] = [{name: player[name] for name in PLAYER_FIELDS if name in player} for player in players]
    return kept


def entries(file: Readable) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one by one.

    Raises:
        ValueError: the text is no such list.
    """
    decoder = json.JSONDecoder()
    decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
    text, is_open = "", False
    while True:
        block = file.read(BLOCK_BYTES)
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
                raise ValueError("not a list of objects in JSON")
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
