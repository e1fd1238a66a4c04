"""Measures how fast games of the older pipelines are read, relative to reading their Parquet files alone.

    python benchmarks/parsed.py --sources parsed-v2.tar parsed-v3.tar slippi-db-toy.zip [--repeats 5]

Guards `datasets/legacy/`. CPU time of this process, minimum over the repeats, by form. `parquet_alone` decompresses and
reads all columns, `selected_fields` is `ParsedFile`, and `parse_parsed_game` is the complete reader. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections import defaultdict
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.legacy.parsed_container import ParsedFile
from datasets.legacy.parsed_game import FIELDS_TO_READ, parse_parsed_game
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

Files = list[tuple[bytes, str, dict | None]]


def seconds(read: Callable[[bytes, str, dict | None], object], files: Files, repeats: int) -> float:
    """CPU seconds for reading all files, minimum over the repeats."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        for file in files:
            read(*file)
        best = min(best, time.process_time() - started)
    return best


READERS: dict[str, Callable[[bytes, str, dict | None], object]] = {
    "parquet_alone": lambda content, name, meta: pq.read_table(
        pa.BufferReader(zlib.decompress(content)), use_threads=False
    ),
    "selected_fields": lambda content, name, meta: ParsedFile(content, FIELDS_TO_READ),
    "parse_parsed_game": parse_parsed_game,
}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    by_form: dict[str, Files] = defaultdict(list)
    num_rows: dict[str, int] = defaultdict(int)
    for replay, read in read_ahead(Inputs(arguments.sources, lambda key: False)):
        content = read()
        game = parse_parsed_game(content, replay.name, replay.meta)
        by_form[game.facts.form].append((content, replay.name, replay.meta))
        num_rows[game.facts.form] += game.num_frames + game.num_rollback_rows
    print(f"{'':12s}" + "".join(f"{name:>18s}" for name in READERS) + "   rows a second")
    results = {}
    for form, files in sorted(by_form.items()):
        speeds = {name: num_rows[form] / seconds(read, files, arguments.repeats) for name, read in READERS.items()}
        results[form] = {name: round(speed) for name, speed in speeds.items()} | {"games": len(files)}
        share = speeds["parse_parsed_game"] / speeds["parquet_alone"]
        print(
            f"{form:12s}" + "".join(f"{speed:18,.0f}" for speed in speeds.values()) + f"   {share:.2f} of Parquet alone"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
