"""What a large corpus costs: deduplication, committing, loading commits, opening.

    python benchmarks/corpus.py [--commits 5000] [--chunks 40]

Builds a corpus of many commits of 64 games, as `wm encode` makes of a large dump. The games have random ids and copies
of one small file as frames, so that only the bookkeeping is measured. Then commits chunks of real size, with and
without fsync, and with checksums computed by the worker or by the driver. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_files import durable_file_record, file_record, file_summaries
from datasets.corpus.commit_log import COMMITS, with_checksum
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.manifest import FRAMES, GAMES, TABLES, build_manifest
from datasets.corpus.reader import open_corpus
from datasets.corpus.shard import ShardWriter, frames_table, game_row
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.durable_files import write_json_atomically
from datasets.schema.columns import FORMAT_VERSION, GAMES_SCHEMA
from datasets.sources.inputs import SkipStats
from datasets.synth import SynthOptions, synthesize

GAMES_A_COMMIT = 64
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds taken, and the result."""
    began = time.perf_counter()
    value = function()
    return time.perf_counter() - began, value


def some_hex(source: random.Random, num_bytes: int) -> str:
    return source.randbytes(num_bytes).hex()


def measure_known_games(num_games: int) -> dict[str, float]:
    """Fill the known games, and look up games that are not among them."""
    source = random.Random(1)
    before = resident_mb()
    known = KnownGames()
    seconds = 0.0
    for number in range(num_games // GAMES_A_COMMIT):
        games = [
            KnownGame(some_hex(source, 16), some_hex(source, 16), 9_000, False, number) for _ in range(GAMES_A_COMMIT)
        ]
        seconds += timed(lambda games=games: known.add(games))[0]
    lookups = [(some_hex(source, 16), some_hex(source, 16)) for _ in range(10_000)]
    lookup_s, _ = timed(lambda: [known.matches(*pair) for pair in lookups])
    lookup_us = lookup_s / 10_000 * 1e6
    return {
        "known_games_fill_s": seconds,
        "known_games_mb": resident_mb() - before,
        "known_games_lookup_us": lookup_us,
    }


def game_rows(folder: Path, num_games: int) -> list[dict[str, Any]]:
    """Rows of synthetic games, and their frames in one file of the folder."""
    synthesize(folder / "replays", SynthOptions(num_games=num_games, seed=1, max_frames=9_000))
    writer = ShardWriter(folder / "frames.parquet")
    rows = []
    for place, path in enumerate(sorted((folder / "replays").glob("*.slp"))):
        game = parse_replay(path.read_bytes())
        where = {"source": "synthetic", "member": place, "path": None}
        rows.append(where | game_row(game) | writer.add(frames_table(game)))
    writer.close()
    return rows


def with_random_ids(source: random.Random, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with random game ids and fingerprints."""
    return [row | {"game_id": some_hex(source, 16), "fingerprint": some_hex(source, 16)} for row in rows]


def write_large(root: Path, rows: list[dict[str, Any]], num_commits: int) -> None:
    """Write a corpus of many commits that can be opened and resumed."""
    source = random.Random(2)
    rows = [row | {"shard": "shard-000000.parquet"} for row in (rows * GAMES_A_COMMIT)[:GAMES_A_COMMIT]]
    for folder in (*TABLES, COMMITS):
        (root / folder).mkdir(parents=True)
    template = root.with_name("games.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=GAMES_SCHEMA), template, compression="zstd")
    commits = []
    for number in range(num_commits):
        files = {}
        for table, stem in ((GAMES, "games"), (FRAMES, "shard")):
            path = root / table / f"{stem}-{number:06d}.parquet"
            shutil.copy(template, path)
            files[table] = file_record(path, GAMES_A_COMMIT)
        games = [[some_hex(source, 16), some_hex(source, 16), 9_000] for _ in rows]
        inputs = [some_hex(source, 12) for _ in rows]
        commit = {"format_version": FORMAT_VERSION, "options": {}, "inputs": inputs, "files": files, "games": games}
        commit = with_checksum(commit | {"parsed": [], "rejects": {}, "replaced": []})
        (root / COMMITS / f"{number:06d}.json").write_text(json.dumps(commit, indent=1))
        commits.append((f"{number:06d}.json", file_summaries(files)))
    counts = {"num_games": num_commits * GAMES_A_COMMIT, "num_frames": 0, "rejects": {}}
    write_json_atomically(root / "corpus.json", build_manifest({}, counts, commits))


def measure_large(root: Path) -> dict[str, float]:
    """Open it, read its games table, and load its commits as a resumed encode does."""
    opened, corpus = timed(lambda: open_corpus(root))
    read, _ = timed(lambda: corpus.games)
    before = resident_mb()
    loaded, committer = timed(lambda: Committer(root, {}))
    grown = resident_mb() - before
    finished, _ = timed(committer.finish)
    return {"open_s": opened, "games_s": read, "load_s": loaded, "load_mb": grown, "finish_s": finished}


@contextmanager
def without_fsync() -> Iterator[None]:
    """Disable fsync, for comparison."""
    fsync, os.fsync = os.fsync, lambda fd: None
    try:
        yield
    finally:
        os.fsync = fsync


def measure_commits(
    folder: Path, rows: list[dict[str, Any]], num_chunks: int, worker_records: bool, num_duplicates: int = 0
) -> float:
    """Seconds per commit on the driver, for chunks whose files exist already."""
    source = random.Random(3)
    committer = Committer(folder, EncodeOptions())
    seconds = 0.0
    for number in range(num_chunks):
        name = f"{number}.frames.parquet"
        shutil.copy(folder.with_name("frames.parquet"), committer.staging / name)
        games = with_random_ids(source, rows)
        games[1 : 1 + num_duplicates] = games[:1] * num_duplicates
        keys = tuple(some_hex(source, 12) for _ in games)
        result = ChunkResult(
            keys=keys, num_bytes=0, skipped=SkipStats(), games=games, rejects=[], frames_file=name, followers_file=None
        )
        facts = durable_file_record(committer.staging / name, sum(game["num_frames"] for game in games))
        if worker_records:
            result = replace(result, staged_files={name: facts})
        seconds += timed(lambda result=result: committer.commit(result))[0]
    seconds += timed(committer.finish)[0]
    shutil.rmtree(folder)
    return seconds / num_chunks


def main() -> None:
    """Print each measure, then all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=5_000)
    parser.add_argument("--chunks", type=int, default=40)
    arguments = parser.parse_args()
    figures: dict[str, float] = {"games": arguments.commits * GAMES_A_COMMIT}
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        figures |= measure_known_games(arguments.commits * GAMES_A_COMMIT)
        rows = game_rows(folder, 32)
        figures["chunk_frames"] = sum(row["num_frames"] for row in rows)
        write_large(folder / "large", rows, arguments.commits)
        figures |= measure_large(folder / "large")
        with without_fsync():
            figures["commit_not_durable_s"] = measure_commits(folder / "c", rows, arguments.chunks, True)
        figures["commit_s"] = measure_commits(folder / "c", rows, arguments.chunks, True)
        figures["commit_driver_checksums_s"] = measure_commits(folder / "c", rows, arguments.chunks, False)
        figures["commit_with_a_duplicate_s"] = measure_commits(folder / "c", rows, arguments.chunks, True, 1)
    for name, value in figures.items():
        print(f"{name:>24}  {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
