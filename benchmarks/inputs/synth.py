"""Measures how fast `wm synth` writes replays, relative to writing random bytes of the same size.

    python benchmarks/inputs/synth.py [--games 1024]

Guards `datasets/synth/`. The target is 200,000 frames per second on one core, for simulation and writing together, in
one thread. On a busy machine look at `frames_per_cpu_s`.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from datasets.synth import SynthOptions, simulate, synthesize, write_slp

TARGET_FRAMES_PER_S = 200_000


def _floor_s(folder: Path, num_games: int, num_bytes: int) -> float:
    """Seconds to write the same number of files and bytes with random content."""
    data = os.urandom(num_bytes // num_games)
    started = time.perf_counter()
    for index in range(num_games):
        (folder / f"floor-{index}.slp").write_bytes(bytes(bytearray(data)))
    return time.perf_counter() - started


def _layout_s(options: SynthOptions) -> float:
    """Seconds to encode one frame as bytes, without simulation and writing."""
    game = next(simulate(SynthOptions(num_games=1, seed=options.seed)))
    started = time.perf_counter()
    for _ in range(10):
        write_slp(game, version=options.version)
    return (time.perf_counter() - started) / 10 / game.num_frames


def main() -> None:
    """Print a table and, as the last line, the same figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=1024)
    parser.add_argument("--batch-games", type=int, default=SynthOptions().batch_games)
    arguments = parser.parse_args()
    options = SynthOptions(num_games=arguments.games, batch_games=arguments.batch_games)
    with tempfile.TemporaryDirectory() as name:
        cpu = time.process_time()
        summary = synthesize(Path(name) / "games", options)
        cpu = time.process_time() - cpu
    with tempfile.TemporaryDirectory() as name:
        floor_s = _floor_s(Path(name), summary.games, summary.num_bytes)
    result = {
        "benchmark": "synth",
        "games": summary.games,
        "frames": summary.frames,
        "frames_per_game": round(summary.frames / summary.games),
        "frames_per_s": round(summary.frames / summary.seconds),
        "frames_per_cpu_s": round(summary.frames / cpu),
        "bytes_per_frame": round(summary.num_bytes / summary.frames, 1),
        "layout_us_per_frame": round(1e6 * _layout_s(options), 3),
        "floor_frames_per_s": round(summary.frames / floor_s),
        "times_the_floor": round(summary.seconds / floor_s, 1),
        "target_frames_per_s": TARGET_FRAMES_PER_S,
    }
    for key, value in result.items():
        print(f"{key:24} {value:>14,}" if not isinstance(value, str) else f"{key:24} {value:>14}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
