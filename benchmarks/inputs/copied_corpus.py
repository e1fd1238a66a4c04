"""Makes a large corpus of copies of a small one's games, for benchmarks of what depends on the number of games.

python benchmarks/inputs/copied_corpus.py SOURCE FOLDER [--games 20000]     writes FOLDER

Every copy of a game has an id, a split and a shard of its own. Shards are hard links, so that 20,000 games take no more
disk space than the source.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.reader import Corpus, open_corpus
from datasets.corpus.state import CORPUS_FILE, FRAMES, GAMES, TABLES
from datasets.schema.splits import split_number

GAMES_FILE = "games-000000.parquet"


def copied_corpus(source: Path, folder: Path, num_games: int) -> Path:
    """Write a corpus of at least `num_games` games into a new folder, by copying the games of another."""
    corpus = open_corpus(source)
    for table in TABLES:
        (folder / table).mkdir(parents=True)
    num_copies = -(-num_games // corpus.games.num_rows)
    shards = []
    for copy in range(num_copies):
        for name, rows, num_bytes, _ in corpus.state.files[FRAMES]:
            os.link(corpus.shard_path(name), folder / FRAMES / _of_copy(copy, name))
            shards.append((_of_copy(copy, name), rows, num_bytes))
    games = pa.concat_tables([_games_of_copy(corpus, copy) for copy in range(num_copies)])
    pq.write_table(games, folder / GAMES / GAMES_FILE)
    games_file = (GAMES_FILE, games.num_rows, (folder / GAMES / GAMES_FILE).stat().st_size)
    files = {table: [] for table in TABLES} | {FRAMES: shards, GAMES: [games_file]}
    counts = {"num_games": games.num_rows, "num_frames": num_copies * corpus.state.num_frames, "rejects": {}}
    manifest = json.loads((source / CORPUS_FILE).read_text()) | counts | {"commits": [], "files": files}
    (folder / CORPUS_FILE).write_text(json.dumps(manifest))
    return folder


def _of_copy(copy: int, name: str) -> str:
    return f"copy-{copy:04d}-{name}"


def _games_of_copy(corpus: Corpus, copy: int) -> pa.Table:
    """The games table of one copy."""
    games = corpus.games
    ids = [
        hashlib.blake2b(f"{copy} {game}".encode(), digest_size=16).hexdigest() for game in games["game_id"].to_pylist()
    ]
    changed = {
        "game_id": ids,
        "split_key": ids,
        "split_number": [split_number(one) for one in ids],
        "shard": [_of_copy(copy, name) for name in games["shard"].to_pylist()],
    }
    for name, values in changed.items():
        column = games.schema.get_field_index(name)
        games = games.set_column(column, games.schema.field(column), pa.array(values, games.schema.field(column).type))
    return games


def main() -> None:
    """Write a corpus that several benchmarks can share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--games", type=int, default=20_000)
    options = parser.parse_args()
    print(copied_corpus(options.source, options.folder, options.games))


if __name__ == "__main__":
    main()
