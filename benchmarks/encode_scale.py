"""What limits an encode on many cores: the driver's rate of chunks, and archives that are read side by side.

    python benchmarks/encode_scale.py [--chunks 1500] [--games 60] [--workers 2]

1. Chunks of one unreadable file each, on Ray, through the driver's whole loop with its commits: chunks a second, and
   the processor time of the driver for one. The inverse of the latter is the rate at which a driver with a core of its
   own saturates.
2. One tar.gz of synthetic games, then two, each read by its own task: the ratio of their times, which is 1 with enough
   cores for both and 2 if they are read one after another.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

import ray

from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline import encode as encode_module
from datasets.pipeline.encode import EncodeSummary, encode
from datasets.pipeline.memory_budget import plan_memory
from datasets.pipeline.ray_encode import encode_on_ray
from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray
from datasets.synth import SynthOptions, synthesize

FIRST_CHUNKS = 100
"""Not counted: while the parsers start."""


def driver_rate(folder: Path, num_chunks: int, num_workers: int) -> tuple[float, float]:
    """Chunks a second, and seconds of the driver's processor time for a chunk."""
    sources = folder / "unreadable"
    sources.mkdir()
    for number in range(num_chunks):
        (sources / f"{number:06}.slp").write_bytes(b"no replay %d" % number)
    marks: list[tuple[float, float]] = []
    encode_module.inputs_per_chunk = lambda num_inputs: 1  # pyrefly: ignore[bad-assignment]

    def mark(summary: EncodeSummary, bytes_left: int) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    with contextlib.suppress(UserError):  # none of the inputs is a game
        encode([sources], folder / "rejects", EncodeOptions(), partial(encode_on_ray, num_workers=num_workers), mark)
    (started, started_cpu), (ended, ended_cpu) = marks[FIRST_CHUNKS], marks[num_chunks - 1]
    counted = num_chunks - 1 - FIRST_CHUNKS
    return counted / (ended - started), (ended_cpu - started_cpu) / counted


def seconds_of_archives(folder: Path, num_archives: int, num_games: int, num_workers: int) -> float:
    """Seconds to encode some tar.gz, from the first commit to the last."""
    sources = folder / f"{num_archives} archives"
    sources.mkdir()
    for number in range(num_archives):
        replays = folder / f"replays {num_archives} {number}"
        synthesize(replays, SynthOptions(num_games=num_games, seed=number, max_frames=4_000))
        with tarfile.open(sources / f"{number}.tar.gz", "w:gz", compresslevel=1) as archive:
            archive.add(replays, replays.name)
    marks: list[float] = []

    def mark(summary: EncodeSummary, bytes_left: int) -> None:
        marks.append(time.perf_counter())

    workers = partial(encode_on_ray, num_workers=num_workers)
    encode([sources], folder / f"corpus of {num_archives}", EncodeOptions(), workers, mark)
    return marks[-1] - marks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1500)
    parser.add_argument("--games", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    start_ray(object_store_bytes=plan_memory(None, arguments.workers, 2).object_store_bytes)
    with tempfile.TemporaryDirectory() as folder:
        times = [seconds_of_archives(Path(folder), number, arguments.games, arguments.workers) for number in (1, 2)]
        per_second, cpu_seconds = driver_rate(Path(folder), arguments.chunks, arguments.workers)
    ray.shutdown()
    print(f"driver: {per_second:.0f} chunks/s, {cpu_seconds * 1e3:.2f} ms of its processor for each")
    print(f"two archives take {times[1] / times[0]:.2f} times as long as one ({times[0]:.1f} s, {times[1]:.1f} s)")
    result = {"chunks_per_s": per_second, "driver_cpu_s": cpu_seconds, "archive_seconds": times}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
