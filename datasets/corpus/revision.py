"""The next revision of a commit, without some of its games."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from datasets.corpus.commit_files import GameFiles, Row, StagedFiles, stage_files
from datasets.corpus.commit_log import Commit, commit_stem, number_and_revision, read_commit
from datasets.corpus.known_games import DroppedGame
from datasets.corpus.manifest import FOLLOWERS, FRAMES, GAMES, REJECTS
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA

DROP_MESSAGES = {
    "replaced": "replaced by its .slp",
    "duplicate": "an earlier commit has this game",
}
"""Reason code of a game that is removed from its commit -> message of the reject that replaces it."""


def reject_row(game: Row, code: str, message: str) -> Row:
    """The row in rejects/ of a game that is not accepted, or no longer."""
    return {name: game[name] for name in ("source", "member", "path", "game_id")} | {"code": code, "message": message}


def build_revision(
    root: Path, staging: Path, name: str, dropped: Sequence[DroppedGame]
) -> tuple[int, int, Commit, StagedFiles]:
    """Stage the next revision of a commit.

    Returns:
        Its number, its revision, its content without `files`, and its files.
    """
    commit = read_commit(root, name)
    number, revision = number_and_revision(name)
    files = commit["files"]
    codes = {game.game_id: game.code for game in dropped}
    games = pq.read_table(root / GAMES / files[GAMES]["name"], schema=GAMES_SCHEMA).to_pylist()
    keep = [game["game_id"] not in codes for game in games]
    rejects: list[Row] = []
    if REJECTS in files:
        rejects = pq.read_table(root / REJECTS / files[REJECTS]["name"], schema=REJECTS_SCHEMA).to_pylist()
    removed = [(game, codes[game["game_id"]]) for game in games if game["game_id"] in codes]
    rejects += [reject_row(game, code, DROP_MESSAGES[code]) for game, code in removed]
    source = GameFiles(
        games=games,
        frames=root / FRAMES / files[FRAMES]["name"],
        followers=root / FOLLOWERS / files[FOLLOWERS]["name"] if FOLLOWERS in files else None,
        records={},
    )
    staged = stage_files(staging, commit_stem(number, revision + 1), source, keep, rejects)
    content = commit | {
        "games": [entry for entry in commit["games"] if entry[0] not in codes],
        "parsed": [game_id for game_id in commit["parsed"] if game_id not in codes],
        "rejects": Counter(reject["code"] for reject in rejects),
    }
    return number, revision + 1, content, staged
