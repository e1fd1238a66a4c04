"""A commit without some of its games: the content and files of its next revision."""

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

MESSAGES = {
    "replaced": "its .slp has arrived and takes its place",
    "duplicate": "an earlier commit has this game",
}
"""Code of a game that leaves its commit -> message of the reject that takes its place."""


def reject_row(game: Row, code: str, message: str) -> Row:
    """The row in rejects/ of a game that is not taken, or no longer."""
    return {name: game[name] for name in ("source", "member", "path", "game_id")} | {"code": code, "message": message}


def build_revision(
    root: Path, staging: Path, name: str, drops: Sequence[DroppedGame]
) -> tuple[int, int, Commit, StagedFiles]:
    """Make the next revision of a commit, in staging.

    Returns:
        Its number, its revision, its content without `files`, and its files.
    """
    commit = read_commit(root, name)
    number, revision = number_and_revision(name)
    files = commit["files"]
    codes = {drop.game_id: drop.code for drop in drops}
    games = pq.read_table(root / GAMES / files[GAMES]["name"], schema=GAMES_SCHEMA).to_pylist()
    keeps = [game["game_id"] not in codes for game in games]
    rejects: list[Row] = []
    if REJECTS in files:
        rejects = pq.read_table(root / REJECTS / files[REJECTS]["name"], schema=REJECTS_SCHEMA).to_pylist()
    gone = [(game, codes[game["game_id"]]) for game in games if game["game_id"] in codes]
    rejects += [reject_row(game, code, MESSAGES[code]) for game, code in gone]
    source = GameFiles(
        games=games,
        frames=root / FRAMES / files[FRAMES]["name"],
        followers=root / FOLLOWERS / files[FOLLOWERS]["name"] if FOLLOWERS in files else None,
        facts={},
    )
    staged = stage_files(staging, commit_stem(number, revision + 1), source, keeps, rejects)
    content = commit | {
        "games": [entry for entry in commit["games"] if entry[0] not in codes],
        "parsed": [game_id for game_id in commit["parsed"] if game_id not in codes],
        "rejects": Counter(reject["code"] for reject in rejects),
    }
    return number, revision + 1, content, staged
