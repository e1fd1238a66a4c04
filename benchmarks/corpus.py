"""What a large corpus costs: deduplication, commits, loading commits, opening. On a disk, and on a server with the
protocol of S3.

    python benchmarks/corpus.py [--chunks 2000] [--storage disk s3]

Commits chunks of 64 games from simulated workers, as fast as the driver takes them; the rows and ids are those of real
results, only the shards are not there. Then loads the commits as a resumed encode does, and opens the corpus. The
processor time beside each figure is that of this process alone; the server of the S3 figures is another one. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.shard import game_row, row_positions
from datasets.corpus.state import FRAMES, CorpusState, FileRecord, load_state
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.storage.folder import open_folder
from datasets.sources.inputs import SkipStats
from datasets.synth import SynthOptions, synthesize

GAMES_A_CHUNK = 64
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    """Memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, seconds of processor time, and the result."""
    began, used = time.perf_counter(), time.process_time()
    value = function()
    return time.perf_counter() - began, time.process_time() - used, value


def some_hex(source: random.Random, num_bytes: int) -> str:
    return source.randbytes(num_bytes).hex()


def measure_known_games(num_games: int) -> dict[str, float]:
    """Fill the known games, and look up games that are not among them, a chunk at a time."""
    source = random.Random(1)
    before = resident_mb()
    known = KnownGames()
    seconds = 0.0
    for _ in range(num_games // GAMES_A_CHUNK):
        games = [KnownGame(some_hex(source, 16), some_hex(source, 16), 9_000) for _ in range(GAMES_A_CHUNK)]
        seconds += timed(lambda games=games: known.add(games))[0]
    chunks = [[some_hex(source, 16) for _ in range(GAMES_A_CHUNK)] for _ in range(200)]
    lookup_s, *_ = timed(lambda: [known.known_values("game_id", ids) for ids in chunks])
    return {
        "known_games_fill_s": seconds,
        "known_games_mb": resident_mb() - before,
        "known_games_lookup_us": lookup_s / 200 / GAMES_A_CHUNK * 1e6,
    }


def template_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of some synthetic games."""
    synthesize(folder / "replays", SynthOptions(num_games=8, seed=1, max_frames=3_000))
    return [game_row(parse_replay(path.read_bytes())) for path in sorted((folder / "replays").glob("*.slp"))]


def results(rows: list[dict[str, Any]], num_chunks: int) -> Iterator[bytes]:
    """Pickled results of simulated workers."""
    source = random.Random(3)
    for number in range(num_chunks):
        shard, keys = f"{uuid.UUID(int=number).hex}.parquet", [some_hex(source, 12) for _ in range(GAMES_A_CHUNK)]
        games = [
            rows[place % len(rows)]
            | {"source": "dump.zip", "member": number * GAMES_A_CHUNK + place, "path": None, "key": key, "shard": shard}
            | {"game_id": some_hex(source, 16), "fingerprint": some_hex(source, 16)}
            for place, key in enumerate(keys)
        ]
        num_frames = [game["num_frames"] for game in games]
        games = [game | position for game, position in zip(games, row_positions(num_frames), strict=True)]
        record = FileRecord(shard, sum(num_frames), 10_000_000, some_hex(source, 16))
        yield pickle.dumps(
            ChunkResult(
                keys=tuple(keys), num_bytes=0, skipped=SkipStats(), games=games, rejects=[], files={FRAMES: record}
            )
        )


def measure_commits(location: str, rows: list[dict[str, Any]], num_chunks: int) -> dict[str, float]:
    """Commit, load, and open a corpus of simulated chunks."""
    made = list(results(rows, num_chunks))
    with Committer(location, EncodeOptions()) as committer:

        def commit_all() -> None:
            for result in made:
                committer.add(pickle.loads(result))
            committer.commit()

        seconds, used, _ = timed(commit_all)
        num_commits = committer.state.num_commits
        committer.folder.replace("corpus.json", committer.state.to_json())
    loaded_s, loaded_cpu_s, state = timed(lambda: load_commits(location))
    opened_s, *_ = timed(lambda: load_state(open_folder(location)))
    assert state.num_games == num_chunks * GAMES_A_CHUNK
    return {
        "chunks_per_s": num_chunks / seconds,
        "chunks_per_cpu_s": num_chunks / used,
        "commits": num_commits,
        "load_commits_s": loaded_s,
        "load_commits_cpu_s": loaded_cpu_s,
        "open_s": opened_s,
    }


def load_commits(location: str) -> CorpusState:
    """What a resumed encode does at its start, but for looking whether the shards exist."""
    from datasets.corpus import commit

    with_files, commit.require_files = commit.require_files, lambda folder, state: None
    try:
        with Committer(location, EncodeOptions()) as committer:
            return committer.state
    finally:
        commit.require_files = with_files


@contextmanager
def s3_server() -> Iterator[str]:
    """A server with the protocol of S3 in another process; yields the URI of a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
                urllib.request.urlopen(request, timeout=2)
                break
            except OSError:
                time.sleep(0.1)
        yield f"s3://key:secret@bucket/corpus?endpoint_override=127.0.0.1:{port}&scheme=http"
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Print each measure, then all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=2_000)
    parser.add_argument("--storage", nargs="+", choices=("disk", "s3"), default=["disk", "s3"])
    arguments = parser.parse_args()
    figures: dict[str, float] = {"games": arguments.chunks * GAMES_A_CHUNK}
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        figures |= measure_known_games(arguments.chunks * GAMES_A_CHUNK)
        rows = template_rows(Path(scratch))
        if "disk" in arguments.storage:
            found = measure_commits(f"{scratch}/corpus", rows, arguments.chunks)
            figures |= {f"disk_{name}": value for name, value in found.items()}
        if "s3" in arguments.storage:
            with s3_server() as location:
                found = measure_commits(location, rows, arguments.chunks)
            figures |= {f"s3_{name}": value for name, value in found.items()}
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    for name, value in figures.items():
        print(f"{name:>24}  {value:,.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
