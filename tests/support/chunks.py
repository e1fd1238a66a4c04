"""Hand-made chunk results, and corpora built from them as `wm encode` does, without sources and without Ray.

    python tests/support/chunks.py GAMES PLAN OUT MOMENT

builds the corpus of a plan in OUT, a path or a URI, and kills itself before the MOMENT-th change of a file or an object
(never if that is 0).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus.chunk import ChunkResult, EncodeOptions, staged_path, store_files
from datasets.corpus.commit import Committer
from datasets.corpus.data_files import file_record, new_name
from datasets.corpus.dedupe import SLP, duplicate_message, reject_row
from datasets.corpus.reader import Corpus, open_corpus
from datasets.corpus.shard import ShardWriter, followers_table, frames_table, game_row
from datasets.corpus.state import FOLLOWERS, FRAMES
from datasets.replays.game import Columns, Follower, Game
from datasets.replays.slp_reader import parse_replay
from datasets.schema.columns import FOLLOWERS_SCHEMA, FRAMES_SCHEMA
from datasets.sources.inputs import SkipStats

REJECT = "-"
"""An input of a plan that contains no game."""
Plan = Sequence[Sequence[str]]
"""Chunks of inputs. `b` is the .slp of game b; `'` marks the parsed form of an older pipeline, `*` other bytes of the
same game, and `~` other positions, as in a parsed form that still contains rollback frames."""


def short_games(folder: Path, num_frames: int = 300) -> dict[str, Game]:
    """The first frames of a folder's replays by letter; every third game has a partner in some frames."""
    games = {}
    for number, (letter, path) in enumerate(zip("abcdefghijklmnop", sorted(folder.glob("*.slp")), strict=False)):
        game = parse_replay(path.read_bytes())
        players = tuple(_some(columns, slice(0, num_frames)) for columns in game.players)
        rows = np.arange(10, 200)
        partner = Follower(player=number % 2, rows=rows, columns=_some(players[1], rows))
        games[letter] = replace(
            game, players=players, num_frames=num_frames, cross_check=None, followers=() if number % 3 else (partner,)
        )
    return games


def _some(columns: Columns, rows: Any) -> Columns:
    return {name: None if values is None else values[rows] for name, values in columns.items()}


def game_of(name: str, games: dict[str, Game]) -> Game:
    """The game that a plan's input stands for."""
    game = games[name[0]]
    if "'" in name:
        game = replace(game, facts=replace(game.facts, form="parsed-v2", slippi_version=None), followers=())
    if "*" in name:
        game = replace(game, game_id=hashlib.md5(name.encode()).hexdigest())
    if "~" in name:
        cut = slice(10, game.num_frames)
        players = tuple(_some(columns, cut) for columns in game.players)
        game = replace(game, players=players, num_frames=game.num_frames - 10)
    return game


def keys_of(number: int, chunk: Sequence[str]) -> tuple[str, ...]:
    """Keys of a chunk's inputs."""
    return tuple(
        hashlib.blake2b(f"{number} {place}".encode(), digest_size=12).hexdigest() for place in range(len(chunk))
    )


def stage(committer: Committer, number: int, chunk: Sequence[str], games: dict[str, Game]) -> ChunkResult:
    """What `encode_chunk` returns for a chunk of a plan; its files are in the corpus's folder."""
    name = new_name()
    writers = {
        FRAMES: ShardWriter(staged_path(committer.staging, FRAMES, name)),
        FOLLOWERS: ShardWriter(staged_path(committer.staging, FOLLOWERS, name), FOLLOWERS_SCHEMA),
    }
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for place, (key, input_name) in enumerate(zip(keys_of(number, chunk), chunk, strict=True)):
        origin = {"source": f"source-{number}", "member": place, "path": None, "key": key}
        if input_name == REJECT:
            rejects.append(reject_row(origin, None, "not_a_replay", "no replay"))
            continue
        game = game_of(input_name, games)
        if game.facts.form == SLP and any(row["game_id"] == game.game_id and row["form"] == SLP for row in rows):
            rejects.append(reject_row(origin, game.game_id, "duplicate", duplicate_message(game.game_id)))
            continue
        rows.append(origin | game_row(game) | writers[FRAMES].add(frames_table(game)) | {"shard": name})
        for follower in game.followers:
            writers[FOLLOWERS].add(followers_table(game, follower))
    files = {
        table: file_record(writer.path, num)._replace(name=name)
        for table, writer in writers.items()
        if (num := writer.close())
    }
    result = ChunkResult(
        keys=keys_of(number, chunk), num_bytes=1, skipped=SkipStats(), games=rows, rejects=rejects, files=files
    )
    store_files(result, committer.staging, committer.folder)
    return result


def encode_plan(
    plan: Plan, games: dict[str, Game], out: Path | str, first_number: int = 0, commit_seconds: float = 0.0
) -> Committer:
    """Commit the chunks that the corpus does not have, each by itself by default, and finish."""
    with Committer(out, EncodeOptions(), commit_seconds=commit_seconds) as committer:
        done = set(committer.done_keys().tolist())
        for number, chunk in enumerate(plan, first_number):
            held = [int(key[:16], 16) in done for key in keys_of(number, chunk)]
            assert len(set(held)) == 1, "a chunk is committed partially"
            if not held[0]:
                committer.add(stage(committer, number, chunk, games))
        committer.finish()
    return committer


def all_rows(location: Path | str) -> dict[str, pa.Table]:
    """Every row of every table of a corpus, in the order of its games, without what depends on the names of files."""
    corpus = open_corpus(location)
    tables = {"games": corpus.games.drop_columns(["shard"]), "rejects": corpus.rejects}
    games = corpus.games.to_pylist()
    for table, schema in ((FRAMES, FRAMES_SCHEMA), (FOLLOWERS, FOLLOWERS_SCHEMA)):
        files = {record.name: _plain(corpus, f"{table}/{record.name}") for record in corpus.state.files.get(table, ())}
        empty = schema.empty_table().set_column(0, "game_id", pa.array([], pa.string()))
        parts = [empty]
        for game in games:
            if (rows := files.get(game["shard"])) is not None:
                own = rows.filter(pc.equal(rows["game_id"], game["game_id"])) if table == FOLLOWERS else rows
                parts.append(own if table == FOLLOWERS else rows.slice(game["first_row"], game["num_frames"]))
        tables[table] = pa.concat_tables(parts)
    return tables


def _plain(corpus: Corpus, path: str) -> pa.Table:
    """The rows of a file, with game ids as strings."""
    with corpus.open_file(path) as file:
        rows = pq.read_table(file)
    return rows.set_column(0, "game_id", rows["game_id"].cast(pa.string()))


def same_rows(first: Path | str, second: Path | str) -> bool:
    """Whether two corpora have equal rows in the same order."""
    one, two = all_rows(first), all_rows(second)
    return all(one[name].equals(two[name]) for name in one)


def files_of(root: Path) -> set[str]:
    """All files of a corpus except its lock."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {"encode.lock"}


@contextmanager
def locked_by_another_process(root: Path) -> Iterator[None]:
    """A context during which another process holds the corpus's lock."""
    script = "import sys, time; from pathlib import Path; from datasets.corpus.commit import Committer; "
    script += "from datasets.pipeline.encode import EncodeOptions; "
    script += "held = Committer(Path(sys.argv[1]), EncodeOptions()); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.kill()
        holder.communicate()


def kill_at(moment: int) -> Iterator[int]:
    """Count operations that change files or objects, and kill this process before one of them."""
    calls, lock = itertools.count(1), threading.Lock()

    def counted_call(original: Callable, *arguments: Any, **options: Any) -> Any:
        with lock:
            if next(calls) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    for name in ("fsync", "replace", "link", "unlink"):
        setattr(os, name, partial(counted_call, getattr(os, name)))
    for name in ("put", "delete", "list"):
        setattr(obstore, name, partial(counted_call, getattr(obstore, name)))
    return calls


if __name__ == "__main__":
    games_file, plan_text, out_name, moment_text = sys.argv[1:]
    counted = kill_at(int(moment_text))
    encode_plan(
        [chunk.split() for chunk in plan_text.split("/")], pickle.loads(Path(games_file).read_bytes()), out_name
    )
    print(next(counted) - 1)
