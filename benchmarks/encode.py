"""Encoding speed, compared with peppi-py alone on the same files in the same run.

    python benchmarks/encode.py [--sources dev.zip ...] [--copies 4] [--no-ray]

Guards `datasets/replays/slp_reader.py`, `datasets/corpus/shard.py` and `datasets/pipeline/encode_chunk.py`. Every phase
reads the same uncompressed .slp files, from the page cache; copies of a game differ in one position, so that none is
dropped as a duplicate, and come after all games of the copy before, so that no row group holds a game twice.
- peppi-py alone: opens and parses each file, nothing else.
- plain: the whole of `encode` in one process: listing, reading, md5, checks, Parquet, checksums, commits.
- plain on all cores: the same with a pool of processes, the most that Ray could reach here now.
- on Ray: the same on all cores, by `encode_on_ray`, parsers in child processes. "Once running" counts from when each
  core has had its first chunk (`rate_once_running`); the row of the table has the start, about 8 s, in it.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import peppi_py
from inputs.default_sources import default_sources

from datasets.checks.filters import FilterConfig, check_game
from datasets.corpus.chunk import ChunkResult, EncodeOptions, store_files
from datasets.corpus.reader import open_corpus
from datasets.corpus.shard import ShardWriter, frames_table
from datasets.corpus.state import FRAMES
from datasets.pipeline.encode import EncodeSummary, RunChunks, encode, encode_in_process
from datasets.pipeline.encode_chunk import encode_chunk
from datasets.pipeline.feed import Chunk, Feed
from datasets.pipeline.memory_budget import plan_memory
from datasets.replays.slp_reader import game_id_of, parse_replay
from datasets.runtime.errors import ReplayError
from datasets.runtime.hardware import num_cores
from datasets.runtime.storage.folder import open_folder
from datasets.sources.inputs import ReplayInput
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

NUDGED_FRAME = 900
"""Index of the frame whose position differs between the copies of a game: within its fingerprint."""


class Stopwatch:
    """Seconds of this process' CPU by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under a name."""
        started = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started


def replays_of(*places: Path) -> Iterator[tuple[ReplayInput, Callable[[], bytes]]]:
    """All inputs of some sources, each with a function that reads it."""
    return read_ahead(Inputs([str(place) for place in places], lambda key: False))


def unpack(sources: list[Path], copies: int, folder: Path, watch: Stopwatch) -> tuple[int, int]:
    """Write the sources' good games as plain .slp files, each several times with one position nudged.

    Returns:
        Number of games and of their frames, copies included.
    """
    folder.mkdir()
    num_games = num_frames = 0
    for number, (_, read) in enumerate(replays_of(*sources)):
        try:
            with watch.stage("read and unzip"):
                content = read()
            game = parse_replay(content)
            check_game(game, FilterConfig())
        except ReplayError:
            continue
        x = game.players[0]["x"]
        assert x is not None
        position = float(x[NUDGED_FRAME])
        for copy in range(copies):
            nudged = content.replace(struct.pack(">f", position), struct.pack(">f", position + copy / 64))
            (folder / f"{copy}-{number:05d}.slp").write_bytes(nudged)
            num_games += 1
            num_frames += game.num_frames
    return num_games, num_frames


def parse_alone(folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of peppi-py on all files."""
    wall, cpu = time.perf_counter(), time.process_time()
    for path in sorted(folder.iterdir()):
        peppi_py.read_slippi(str(path))
    return time.perf_counter() - wall, time.process_time() - cpu


def encode_all(
    folder: Path,
    out: Path,
    run_chunks: RunChunks,
    num_games: int,
    on_commit: Callable[[EncodeSummary, int], None] = lambda summary, bytes_left: None,
) -> tuple[float, float]:
    """Wall and this process' CPU seconds of a whole encode; all games must have been taken."""
    wall, cpu = time.perf_counter(), time.process_time()
    summary = encode([folder], out, EncodeOptions(), run_chunks, on_commit)
    assert summary.num_games == num_games, f"{summary.num_games} of {num_games} games taken: {summary.rejects}"
    return time.perf_counter() - wall, time.process_time() - cpu


def time_stages(folder: Path, shard: Path, watch: Stopwatch) -> None:
    """The steps of `encode_chunk` one by one, into one shard."""
    writer = ShardWriter(shard)
    for replay, read in replays_of(folder):
        with watch.stage("read"):
            content = read()
        with watch.stage("md5"):
            game_id_of(content)
        with watch.stage("peppi-py"):
            peppi_py.read_slippi(replay.container)
        with watch.stage("parse_replay"):
            game = parse_replay(content)
        with watch.stage("checks"):
            check_game(game, FilterConfig())
        with watch.stage("table"):
            table = frames_table(game)
        with watch.stage("parquet write"):
            writer.add(table)
    with watch.stage("parquet write"):
        writer.close()
    parse = watch.seconds.pop("parse_replay")
    watch.seconds["columns"] = max(0.0, parse - watch.seconds["peppi-py"] - watch.seconds["md5"])


def encode_warm(folder: Path, out: Path, run_chunks: RunChunks, num_games: int) -> tuple[float, float]:
    """Seconds of an encode once its processes are up, which a small corpus sees to."""
    warm_up = out.with_name(f"{out.name}-warm-up")
    warm_up.mkdir()
    for path in sorted(folder.iterdir())[:16]:
        (warm_up / path.name).hardlink_to(path)
    encode([warm_up], warm_up.with_suffix(".corpus"), EncodeOptions(), run_chunks)
    return encode_all(folder, out, run_chunks, num_games)


def encode_in_a_pool(folder: Path, out: Path, num_games: int, cores: int) -> tuple[float, float]:
    """Seconds of an encode with one plain process a core."""
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:

        def run_chunks(feed: Feed) -> Generator[ChunkResult]:
            yield from pool.map(partial(encode_and_store, feed.staging, feed.out), feed.chunks())

        return encode_warm(folder, out, run_chunks, num_games)


def encode_and_store(staging: str, out: str, chunk: Chunk) -> ChunkResult:
    """Encode a chunk and put its files into the corpus, as a worker does."""
    result = encode_chunk(chunk)
    store_files(result, Path(staging), open_folder(out))
    return result


def encode_with_ray(folder: Path, out: Path, num_games: int, cores: int) -> tuple[tuple[float, float], float]:
    """Seconds of an encode on a Ray that is up, and its frames a second between the first commit and the last."""
    import ray

    from datasets.pipeline.ray_encode import encode_on_ray
    from datasets.runtime.ray_cluster import start_ray

    start_ray(object_store_bytes=plan_memory(None, cores).object_store_bytes)
    commits: list[tuple[float, int]] = []

    def note(summary: EncodeSummary, bytes_left: int) -> None:
        commits.append((time.perf_counter(), summary.num_frames))

    seconds = encode_all(folder, out, partial(encode_on_ray, num_workers=cores), num_games, note)
    ray.shutdown()
    return seconds, rate_once_running(commits, cores)


def rate_once_running(commits: list[tuple[float, int]], cores: int) -> float:
    """Frames a second from when every core has had its first chunk to the end.

    Args:
        commits: (seconds, frames so far) at each commit.
        cores: chunks under way at any time: on average half of each was done when the counting begins.
    """
    (first_time, first_frames), (last_time, last_frames) = commits[min(2 * cores, len(commits) - 2)], commits[-1]
    chunk_frames = last_frames / len(commits)
    return max(0.0, last_frames - first_frames - cores * chunk_frames / 2) / (last_time - first_time)


def print_table(rows: dict[str, tuple[float, float]], stages: dict[str, float], num_frames: int) -> None:
    """Frames a second of each phase and the share of each stage."""
    floor = rows["peppi-py alone"][0]
    print(f"{'':<18}{'seconds':>9}{'own CPU':>9}{'frames/s':>12}{'x floor':>9}")
    for name, (wall, cpu) in rows.items():
        print(f"{name:<18}{wall:>9.2f}{cpu:>9.2f}{num_frames / wall:>12,.0f}{wall / floor:>9.2f}")
    unzip = stages.pop("read and unzip")
    total = sum(stages.values())
    print("\nshare of one process' time by stage, from uncompressed files:")
    for name, seconds in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {name:<16}{seconds / total:>6.1%}{seconds / num_frames * 1e6:>8.2f} us a frame")
    print(f"reading the sources themselves, unzipped, would add {unzip / total:.1%} of that")


def main() -> None:
    """Run all phases and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", nargs="+", type=Path, help="replays; default: the real dev games, or synthetic")
    parser.add_argument("--copies", type=int, default=4, help="times that each game is encoded")
    parser.add_argument("--no-ray", action="store_true", help="leave out the phases on several cores")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="encode-benchmark-") as name:
        scratch, watch = Path(name), Stopwatch()
        sources = arguments.sources or default_sources(scratch)
        num_games, num_frames = unpack(sources, arguments.copies, scratch / "slp", watch)
        watch.seconds["read and unzip"] *= arguments.copies
        if not num_games:
            sys.exit("no training game in the sources; name others with --sources")
        print(f"{num_games} games, {num_frames:,} frames, from {', '.join(path.name for path in sources)}\n")
        rows = {"peppi-py alone": parse_alone(scratch / "slp")}
        rows["plain, 1 process"] = encode_all(scratch / "slp", scratch / "plain", encode_in_process, num_games)
        peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        bytes_per_frame = open_corpus(scratch / "plain").num_bytes(FRAMES) / num_frames
        time_stages(scratch / "slp", scratch / "stages.parquet", watch)
        cores = num_cores()
        once_running = None
        if not arguments.no_ray:
            rows[f"plain, {cores} cores"] = encode_in_a_pool(scratch / "slp", scratch / "pool", num_games, cores)
            seconds, once_running = encode_with_ray(scratch / "slp", scratch / "ray", num_games, cores)
            rows[f"Ray, {cores} cores"] = seconds
        print_table(rows, watch.seconds, num_frames)
    walls = [num_frames / wall for wall, _ in rows.values()]
    if once_running is not None:
        share = once_running / cores / walls[1]
        print(f"Ray once running: {once_running:,.0f} frames/s, a core {share:.0%} of one plain process")
    print(f"{bytes_per_frame:.2f} bytes a frame on disk, {peak_rss_bytes / 2**20:.0f} MiB at the peak of one process")
    facts = {
        "peppi_frames_per_s": round(walls[0]),
        "plain_frames_per_s": round(walls[1]),
        "plain_frames_per_cpu_s": round(num_frames / rows["plain, 1 process"][1]),
        "pool_frames_per_s": None if once_running is None else round(walls[2]),
        "ray_frames_per_s": None if once_running is None else round(once_running),
        "ray_frames_per_s_with_start": None if once_running is None else round(walls[3]),
        "ray_frames_per_s_per_core": None if once_running is None else round(once_running / cores),
        "cores": cores,
        "bytes_per_frame": round(bytes_per_frame, 2),
        "peak_rss_bytes": peak_rss_bytes,
        "num_frames": num_frames,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
