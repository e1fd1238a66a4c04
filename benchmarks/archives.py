"""How fast archives are read: each way to read a 7z beside liblzma alone, and how a large zip is walked.

    python benchmarks/archives.py ARCHIVE.7z [NUM_MEMBERS]

The archive is any 7z of LZMA or LZMA2. The floor decompresses the same bytes with Python's `lzma` and drops them; the
others give each member's bytes, checked. Where blocks are unpacked at once, or other programs are at work, the clock's
seconds and the cores' tell different things. py7zr comes with the extra `dev`; libarchive is measured where it is
installed, with libarchive-c. Then a zip of NUM_MEMBERS (default 172,000) small members is made, and walked by
`zipfile` and by ours. Every way runs three times in turn, the best counts. Prints tables and one JSON line.
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

from datasets.sources.scan import Inputs, survey

REPEATS = 3
PIECE_BYTES = 1 << 20


def by_lzma_alone(path: Path) -> int:
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


def by_ours(path: Path) -> int:
    """Bytes of all members, as inputs."""
    return sum(len(replay.content or b"") for replay in Inputs([str(path)], lambda key: False))


def by_py7zr(path: Path) -> int:
    """Bytes of all members, by py7zr's streaming interface."""
    import py7zr
    from py7zr.io import Py7zIO, WriterFactory

    total = 0

    class Counted(Py7zIO):
        def write(self, s: bytes | bytearray) -> int:
            nonlocal total
            total += len(s)
            return len(s)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def flush(self) -> None:
            pass

        def size(self) -> int:
            return 0

    class Counting(WriterFactory):
        def create(self, filename: str) -> Py7zIO:
            return Counted()

    with py7zr.SevenZipFile(path) as archive:
        archive.extract(factory=Counting())
    return total


def by_libarchive(path: Path) -> int:
    """Bytes of all members, by libarchive."""
    import libarchive  # pyrefly: ignore[missing-import]

    with libarchive.file_reader(str(path)) as archive:
        return sum(len(block) for entry in archive for block in entry.get_blocks(PIECE_BYTES))


def megabytes_per_s(path: Path) -> dict[str, tuple[float, float]]:
    """Uncompressed MB of each way that is installed, by the clock's second and by the cores', best of REPEATS."""
    ways: dict[str, Callable[[Path], int]] = {
        "lzma alone": by_lzma_alone, "ours": by_ours, "py7zr": by_py7zr, "libarchive": by_libarchive,
    }  # fmt: skip
    speeds: dict[str, tuple[float, float]] = {}
    for _ in range(REPEATS):
        for name, way in ways.items():
            started, started_cores = time.perf_counter(), time.process_time()
            try:
                num_bytes = way(path)
            except (ImportError, TypeError, AttributeError):  # libarchive-c without its library raises the last two
                continue
            megabytes = num_bytes / 1e6
            by_clock = megabytes / (time.perf_counter() - started)
            by_cores = megabytes / (time.process_time() - started_cores)
            best = speeds.get(name, (0.0, 0.0))
            speeds[name] = max(best[0], by_clock), max(best[1], by_cores)
    return speeds


def list_by_zipfile(path: str) -> int:
    """Members of a zip, by Python's own module."""
    return len(zipfile.ZipFile(path).infolist())


def list_by_survey(path: str) -> int:
    """Members of a zip, as a survey counts them."""
    return survey([path]).num_inputs


def list_by_walk(path: str) -> int:
    """Members of a zip, as a walk gives them."""
    return sum(1 for _ in Inputs([path], lambda key: False))


def peak_kb() -> int:
    """Most memory that this process has had, in KB; 0 where the system does not say (`getrusage` counts the parent)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure_listing(way: Callable[[str], int], path: str, results: multiprocessing.SimpleQueue) -> None:
    """In a process of its own: seconds, and MB by which the peak of its memory grew."""
    before = peak_kb()
    started = time.perf_counter()
    way(path)
    seconds = time.perf_counter() - started
    results.put((seconds, (peak_kb() - before) / 1024))


def listings(num_members: int) -> dict[str, tuple[float, float]]:
    """Way -> (seconds, MB) to list a zip of that many members."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    ways = {"zipfile": list_by_zipfile, "survey": list_by_survey, "walk": list_by_walk}
    found: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "many.zip")
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(num_members):
                archive.writestr(f"ranked/a-name-as-long-as-names-are-{number:06}.slp.gz", b"x")
        for _ in range(REPEATS):
            for name, way in ways.items():
                process = context.Process(target=measure_listing, args=(way, path, results))
                process.start()
                found[name] = min(found.get(name, (1e9, 0.0)), results.get())
                process.join()
    return found


def main() -> None:
    """Print how fast the archive is read and a large zip is walked."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    path, num_members = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 172_000
    speeds = megabytes_per_s(path)
    floor = speeds["lzma alone"]
    print(f"{'7z':12} {'MB/s':>8} {'of lzma alone':>14} {'MB/core s':>10} {'of lzma alone':>14}")
    for name, (by_clock, by_cores) in speeds.items():
        shares = by_clock / floor[0], by_cores / floor[1]
        print(f"{name:12} {by_clock:8.1f} {shares[0]:14.2f} {by_cores:10.1f} {shares[1]:14.2f}")
    listed = listings(num_members)
    print(f"\n{num_members:,} members of a zip\n{'':12} {'s':>8} {'MB':>8}")
    for name, (seconds, megabytes) in listed.items():
        print(f"{name:12} {seconds:8.2f} {megabytes:8.1f}")
    names = {name: name.replace(" ", "_") for name in speeds}
    figures = {f"{names[name]}_mb_per_s": round(speed, 1) for name, (speed, _) in speeds.items()}
    figures |= {f"{names[name]}_mb_per_core_s": round(speed, 1) for name, (_, speed) in speeds.items()}
    figures |= {f"zip_{name}_s": round(seconds, 2) for name, (seconds, _) in listed.items()}
    figures |= {f"zip_{name}_mb": round(megabytes, 1) for name, (_, megabytes) in listed.items()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
