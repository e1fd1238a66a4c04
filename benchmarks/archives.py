"""Speed of reading archives: a 7z compared with liblzma alone, and the listing of a large zip.

    python benchmarks/archives.py ARCHIVE.7z [NUM_MEMBERS]

The archive is any 7z whose blocks are LZMA or LZMA2. The baseline decompresses the same blocks with Python's `lzma` and
drops the bytes; `inputs` yields each member's bytes, checked, from the child processes that read 7z. CPU time counts
those processes. Then a zip of NUM_MEMBERS (default 172,000) small members is made and listed by `zipfile`, `survey` and
`Inputs`, each in a process of its own. Everything runs three times in turn; the best counts. Prints tables and one JSON
line.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from datasets.sources.scan import Inputs, survey

REPEATS = 3
PIECE_BYTES = 1 << 20


def read_by_lzma(path: Path) -> int:
    """Bytes of all blocks, decompressed by liblzma and dropped."""
    import py7zr

    total = 0
    with py7zr.SevenZipFile(path) as archive, path.open("rb") as file:
        streams = archive.header.main_streams
        assert streams is not None and streams.unpackinfo is not None and streams.packinfo is not None
        file.seek(archive.afterheader)
        for folder, packed_bytes in zip(streams.unpackinfo.folders, streams.packinfo.packsizes, strict=True):
            decompressor: Any = folder.get_decompressor(packed_bytes).chain[0]
            left, num_bytes, done = packed_bytes, folder.get_unpack_size(), 0
            while done < num_bytes:
                data = file.read(min(PIECE_BYTES, left)) if decompressor.needs_input else b""
                left -= len(data)
                done += len(decompressor.decompress(data, PIECE_BYTES))
            total += done
    return total


def read_inputs(path: Path) -> int:
    """Bytes of all members, as inputs."""
    return sum(len(replay.content or b"") for replay in Inputs([str(path)], lambda key: False))


def cpu_seconds() -> float:
    """CPU time of this process and of its children, including those that ended."""
    this = psutil.Process()
    children = this.children(recursive=True)
    return sum(this.cpu_times()[:4]) + sum(sum(child.cpu_times()[:4]) for child in children)


def megabytes_per_s(path: Path) -> dict[str, tuple[float, float]]:
    """Reader -> uncompressed MB per second of time and of CPU time, best of REPEATS."""
    readers = {"lzma": read_by_lzma, "inputs": read_inputs}
    speeds: dict[str, tuple[float, float]] = {}
    for _ in range(REPEATS):
        for name, read in readers.items():
            started, started_cpu = time.perf_counter(), cpu_seconds()
            megabytes = read(path) / 1e6
            per_second = megabytes / (time.perf_counter() - started)
            per_cpu_second = megabytes / (cpu_seconds() - started_cpu)
            best = speeds.get(name, (0.0, 0.0))
            speeds[name] = max(best[0], per_second), max(best[1], per_cpu_second)
    return speeds


def list_by_zipfile(path: str) -> int:
    """Members of a zip, by the standard library."""
    return len(zipfile.ZipFile(path).infolist())


def list_by_survey(path: str) -> int:
    """Members of a zip, counted by a survey."""
    return survey([path]).num_inputs


def list_inputs(path: str) -> int:
    """Members of a zip, as inputs."""
    return sum(1 for _ in Inputs([path], lambda key: False))


def peak_kb() -> int:
    """Peak resident memory of this process in KB; 0 without /proc (`getrusage` would include the parent's)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure_listing(list_zip: Callable[[str], int], path: str, results: multiprocessing.SimpleQueue) -> None:
    """Put seconds, and the MB by which the peak memory of this process grew."""
    before = peak_kb()
    started = time.perf_counter()
    list_zip(path)
    seconds = time.perf_counter() - started
    results.put((seconds, (peak_kb() - before) / 1024))


def listings(num_members: int) -> dict[str, tuple[float, float]]:
    """Name of the listing -> seconds and MB for a zip of that many members."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    listers = {"zipfile": list_by_zipfile, "survey": list_by_survey, "inputs": list_inputs}
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "many.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(num_members):
                archive.writestr(f"ranked/a-name-as-long-as-names-are-{number:06}.slp.gz", b"x")
        for _ in range(REPEATS):
            for name, list_zip in listers.items():
                process = context.Process(target=measure_listing, args=(list_zip, path, results))
                process.start()
                found[name] = min(found.get(name, (1e9, 0.0)), results.get())
                process.join()
    return found


def main() -> None:
    """Measure and print."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    path, num_members = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 172_000
    speeds = megabytes_per_s(path)
    baseline = speeds["lzma"]
    print(f"{'7z':12} {'MB/s':>8} {'of lzma':>8} {'MB/CPU s':>9} {'of lzma':>8}")
    for name, (per_second, per_cpu_second) in speeds.items():
        ratios = per_second / baseline[0], per_cpu_second / baseline[1]
        print(f"{name:12} {per_second:8.1f} {ratios[0]:8.2f} {per_cpu_second:9.1f} {ratios[1]:8.2f}")
    listed = listings(num_members)
    print(f"\n{num_members:,} members of a zip\n{'':12} {'s':>8} {'MB':>8}")
    for name, (seconds, megabytes) in listed.items():
        print(f"{name:12} {seconds:8.2f} {megabytes:8.1f}")
    figures = {f"{name}_mb_per_s": round(speed, 1) for name, (speed, _) in speeds.items()}
    figures |= {f"{name}_mb_per_cpu_s": round(speed, 1) for name, (_, speed) in speeds.items()}
    figures |= {f"zip_{name}_s": round(seconds, 2) for name, (seconds, _) in listed.items()}
    figures |= {f"zip_{name}_mb": round(megabytes, 1) for name, (_, megabytes) in listed.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
