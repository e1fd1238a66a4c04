"""How fast batches of sequences come: our reader, and Ray Data over the same corpus, in one run.

    python benchmarks/loader.py CORPUS

Both read the same Parquet columns and give the same arrays: sequences of 65 frames, 512 to a batch. Ours gives
an order that depends on (seed, epoch) alone and a cursor to resume from; Ray Data 2.60's iterators have no state.
Prints a table and one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ray

from datasets.corpus import open_corpus
from datasets.frames import CODE_COLUMNS, FLOAT_COLUMNS, index_games
from datasets.ray_start import start_ray
from datasets.schema import NUM_PLAYERS
from datasets.sequences import SequenceStream
from datasets.splits import SplitConfig

SEQUENCE = 65
BATCH = 512
EPOCHS = 3


def our_batches(corpus: Path) -> Iterator[int]:
    """Targets in each batch of our reader, over EPOCHS."""
    index = index_games(open_corpus(corpus), "all", SplitConfig())
    stream = SequenceStream(index, sequence_frames=SEQUENCE, stride=SEQUENCE - 1, batch_size=BATCH, seed=0)
    for batch in stream:
        yield len(batch.floats) * (SEQUENCE - 1)
        if stream.cursor.epoch == EPOCHS:
            return


def cut(block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A block of frames as rows of whole sequences (games' borders are ignored: less work than ours does)."""
    num = len(block["frame"]) // (SEQUENCE - 1) - 1
    rows = (np.arange(num) * (SEQUENCE - 1))[:, None] + np.arange(SEQUENCE)
    arrays = {}
    for name, columns, dtype in (("floats", FLOAT_COLUMNS, np.float32), ("codes", CODE_COLUMNS, np.int16)):
        packed = np.stack(
            [np.nan_to_num(block[f"p{p}_{c}"]).astype(dtype) for p in range(NUM_PLAYERS) for c in columns], axis=-1
        )
        arrays[name] = packed[rows]
    return arrays


def ray_batches(corpus: Path) -> Iterator[int]:
    """Targets in each batch of Ray Data, shuffled locally, over EPOCHS."""
    columns = ["frame", *(f"p{p}_{c}" for p in range(NUM_PLAYERS) for c in FLOAT_COLUMNS + CODE_COLUMNS)]
    dataset = ray.data.read_parquet(str(corpus / "frames"), columns=columns).map_batches(
        cut,  # pyrefly: ignore[bad-argument-type]
        batch_size=None,
    )
    for _ in range(EPOCHS):
        for batch in dataset.iter_batches(
            batch_size=BATCH, local_shuffle_buffer_size=4 * BATCH, local_shuffle_seed=0, prefetch_batches=2
        ):
            yield len(batch["floats"]) * (SEQUENCE - 1)


def speed(batches: Iterator[int]) -> tuple[float, float]:
    """Targets a second, and seconds to the first batch."""
    started = time.perf_counter()
    total = next(batches)
    first = time.perf_counter() - started
    total += sum(batches)
    return total / (time.perf_counter() - started), first


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/loader.py CORPUS")
    corpus = Path(sys.argv[1]).resolve()
    start_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    ours, ours_first = speed(our_batches(corpus))
    theirs, theirs_first = speed(ray_batches(corpus))
    print(f"{'':<12}{'targets/s':>14}{'first batch, s':>18}")
    print(f"{'ours':<12}{ours:>14,.0f}{ours_first:>18.2f}")
    print(f"{'Ray Data':<12}{theirs:>14,.0f}{theirs_first:>18.2f}")
    result = {"ours_targets_per_s": ours, "ray_targets_per_s": theirs, "ratio": ours / theirs}
    print(json.dumps(result | {"ours_first_s": ours_first, "ray_first_s": theirs_first}))


if __name__ == "__main__":
    main()
