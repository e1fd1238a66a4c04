"""Whether the memory of an encode is constant in the number of games, and within its limit.

    python benchmarks/encode_memory.py [--games 250 1000 4000] [--memory 3GB] [--form zip]

Writes synthetic games, then runs `wm encode` on the first 250, 1,000 and 4,000 of them, each with a new local Ray,
and samples the proportional set sizes of the whole tree of processes (driver, Ray, parsers and their children;
shared pages count once) five times a second. `shared` is what of that is shared memory: the object store.
`--form tar.gz` and `7z` (one solid block) pass contents through the object store, `zip` and `folder` only references.
Peaks of short runs differ by chance, so the growth with the number of games is the slope of a line through the
samples of the largest run, without its first quarter (processes start and pools fill) and its end (they stop).
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import py7zr

from datasets.pipeline.memory_budget import parse_bytes
from datasets.runtime.hardware import process_tree, total_memory_bytes
from datasets.synth import SynthOptions, synthesize

SAMPLE_SECONDS = 0.2
RANKED_GAMES = 287_504


def sample(root: int) -> tuple[int, int]:
    """Bytes of a tree of processes: in all, and of shared memory."""
    total = shared = 0
    for pid in process_tree(root):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        values = dict(re.findall(r"^(Pss|Pss_Shmem):\s+(\d+) kB", rollup, re.MULTILINE))
        total += int(values.get("Pss", 0)) * 1024
        shared += int(values.get("Pss_Shmem", 0)) * 1024
    return total, shared


def measure(source: Path, out: Path, memory: str | None) -> dict[str, float]:
    """Peaks and speed of one `wm encode`."""
    command = [sys.executable, "-m", "wm.cli", "encode", str(source), "--out", str(out)]
    command += ["--memory", memory] if memory else []
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    samples, peak_shared = [], 0
    while process.poll() is None:
        total, shared = sample(process.pid)
        samples.append((sum(1 for _ in out.glob("commits/*.json")), total))
        peak_shared = max(peak_shared, shared)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode != 0:
        sys.exit(f"wm encode ended with {process.returncode}")
    seconds = time.monotonic() - began
    manifest = json.loads((out / "corpus.json").read_text())
    num_inputs = manifest["num_games"] + sum(manifest["rejects"].values())
    per_commit = num_inputs / len(manifest["commits"])
    reached = [(commits * per_commit, total) for commits, total in samples]
    late = np.array([(inputs, total) for inputs, total in reached if num_inputs / 4 < inputs < num_inputs])
    return {
        "inputs": num_inputs,
        "games": manifest["num_games"],
        "frames": manifest["num_frames"],
        "seconds": seconds,
        "peak_bytes": max(total for _, total in samples),
        "peak_shared_bytes": peak_shared,
        "bytes_per_input": float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) if len(late) > 2 else 0.0,
    }


def pack(games: list[Path], form: str, place: Path) -> Path:
    """The games as a folder of links, a zip, a tar.gz, or a 7z of one solid block."""
    if form == "folder":
        place.mkdir()
        for game in games:
            (place / game.name).hardlink_to(game)
        return place
    archive = place.with_suffix(f".{form}")
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for game in games:
                file.write(game, game.name)
    elif form == "7z":
        with py7zr.SevenZipFile(archive, "w", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 1}]) as file:
            for game in games:
                file.write(game, game.name)
    else:
        with tarfile.open(archive, "w:gz", compresslevel=1) as file:
            for game in games:
                file.add(game, game.name)
    return archive


def main() -> None:
    """Measure all sizes, fit a line, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", nargs="+", type=int, default=[250, 1_000, 4_000])
    parser.add_argument("--memory", help="limit, such as 3GB; default: that of wm encode")
    parser.add_argument("--form", choices=("folder", "zip", "tar.gz", "7z"), default="zip")
    arguments = parser.parse_args()
    limit = parse_bytes(arguments.memory, "--memory") or total_memory_bytes() // 4
    rows = []
    with tempfile.TemporaryDirectory(prefix="encode-memory-") as name:
        scratch = Path(name)
        synthesize(scratch / "slp", SynthOptions(num_games=max(arguments.games), seed=3, max_frames=2_600))
        games = sorted((scratch / "slp").iterdir())
        print(f"{'inputs':>7}{'frames':>12}{'frames/s':>10}{'peak MB':>9}{'shared MB':>11}{'of limit':>10}")
        for number in arguments.games:
            source = pack(games[:number], arguments.form, scratch / f"games-{number}")
            row = measure(source, scratch / "corpus", arguments.memory)
            rows.append(row)
            peak, shared = row["peak_bytes"] / 1e6, row["peak_shared_bytes"] / 1e6
            print(
                f"{row['inputs']:>7,}{row['frames']:>12,}{row['frames'] / row['seconds']:>10,.0f}"
                f"{peak:>9,.0f}{shared:>11,.0f}{row['peak_bytes'] / limit:>10.0%}",
                flush=True,
            )
            shutil.rmtree(scratch / "corpus")
    largest = rows[-1]
    slope = largest["bytes_per_input"]
    at_ranked = largest["peak_bytes"] + slope * (RANKED_GAMES - largest["inputs"])
    print(f"growth: {slope:,.0f} bytes a game; peak at {RANKED_GAMES:,} games {at_ranked / 1e6:,.0f} MB")
    facts = {
        "form": arguments.form,
        "limit_bytes": limit,
        "cores": os.cpu_count(),
        "rows": rows,
        "bytes_per_game": round(slope),
        "bytes_at_287504_games": round(at_ranked),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
