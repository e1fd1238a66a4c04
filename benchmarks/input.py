"""How fast examples come, without a network: our data path, and what else could bring them, on one corpus in one run.

    python benchmarks/input.py CORPUS [--batch 512 --sequence 64 --epochs 3 --train-seconds 15]

Rows of the table, all in frames a second (of examples: the frames predicted) and over whole epochs or --seconds:
- ours, from Parquet: `BatchLoader` without a device cache; ours, cached: after the corpus was loaded onto the device;
- pyarrow scan: the same row groups and columns by as many threads, decoded and dropped: the floor of reading;
- Dataset + DataLoader: an example a __getitem__, 0 and 2 worker processes, out of arrays that hold all in memory: so
  it is ours, resident, that it compares with;
- Ray Data: read_parquet, cut in map_batches, shuffled locally.
`wait_share` is the part of a training run's time (--config, --train-seconds) in which it waits for frames; with
--train-seconds 0, of a loop that takes --need targets a second. Prints a table, last a JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from inputs.synthetic_corpus import synthetic_corpus
from torch.utils.data import DataLoader, Dataset

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays, GameIndex, index_games, read_games
from datasets.loading.sequences import SequenceOrder
from datasets.runtime.hardware import num_cores
from datasets.runtime.ray_cluster import start_ray
from datasets.schema.columns import NUM_PLAYERS
from datasets.schema.splits import SplitConfig
from wm.config.run_config import DataConfig, RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.batches import MAX_READ_THREADS, BatchLoader

COLUMNS = [f"p{p}_{c}" for p in range(NUM_PLAYERS) for c in FLOAT_COLUMNS + CODE_COLUMNS]


def order_of(index: GameIndex, options: argparse.Namespace, batch: int | None = None) -> SequenceOrder:
    """The order of a run on all games."""
    return SequenceOrder(
        index,
        sequence_frames=options.sequence + 1,
        stride=options.sequence,
        batch_size=batch or options.batch,
        seed=0,
        pool_frames=options.pool_frames,
    )


def ours(index: GameIndex, options: argparse.Namespace, resident: Literal["always", "never"]) -> dict[str, float]:
    """Our data path over some epochs; resident frames are read before the clock starts."""
    started = time.perf_counter()
    sequences = 0
    with BatchLoader(order_of(index, options), index, options.device, data=DataConfig(device_cache=resident)) as feed:
        if resident == "always":
            next(feed)
            started = time.perf_counter()
        while feed.cursor.epoch < options.epochs:
            sequences += next(feed).num_examples
        if options.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {"frames_per_s": sequences * options.sequence / seconds, "sequences_per_s": sequences / seconds}


def pyarrow_scan(index: GameIndex, options: argparse.Namespace) -> float:
    """Frames a second of reading the columns of all row groups, and nothing else."""
    groups = sorted({(str(shard), int(group)) for shard, group in zip(index.shards, index.row_groups, strict=True)})

    def read(group: tuple[str, int]) -> int:
        with pq.ParquetFile(index.corpus.shard_path(group[0])) as file:
            return file.read_row_group(group[1], columns=COLUMNS, use_threads=False).num_rows

    started = time.perf_counter()
    with ThreadPoolExecutor(min(MAX_READ_THREADS, num_cores())) as threads:
        total = sum(sum(threads.map(read, groups)) for _ in range(options.epochs))
    return total / (time.perf_counter() - started)


class OneExample(Dataset[dict[str, torch.Tensor]]):
    """The usual map-style dataset: all frames in memory, an example an item."""

    def __init__(self, index: GameIndex, frames: FrameArrays, sequence: int) -> None:
        ends = np.cumsum(index.num_frames)
        self.frames, self.facts, self.length = frames, index.facts, sequence + 1
        self.examples = [
            (game, start)
            for game, (end, length) in enumerate(zip(ends.tolist(), index.num_frames.tolist(), strict=True))
            for start in range(end - length, end - sequence, sequence)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        game, start = self.examples[index]
        return {
            "floats": torch.from_numpy(self.frames.floats[start : start + self.length]),
            "codes": torch.from_numpy(self.frames.codes[start : start + self.length]),
            "game": torch.from_numpy(self.facts[game]),
        }


def data_loader(dataset: OneExample, options: argparse.Namespace, num_workers: int) -> float:
    """Frames a second of a shuffling DataLoader, its workers' start included only in the first batch, left out."""
    targets, started = 0, 0.0
    while not targets or time.perf_counter() - started < options.seconds:
        loader = DataLoader(
            dataset, options.batch, shuffle=True, num_workers=num_workers, pin_memory=options.device.type == "cuda"
        )
        for number, batch in enumerate(loader):
            if not started and number == 0:
                started = time.perf_counter()
                continue
            targets += len(batch["floats"].to(options.device, non_blocking=True)) * options.sequence
            if time.perf_counter() - started > options.seconds:
                break
    return targets / (time.perf_counter() - started)


def cut(block: dict[str, np.ndarray], sequence: int) -> dict[str, np.ndarray]:
    """A block of frames as rows of whole sequences (games' borders are ignored: less work than ours does)."""
    num = (len(block["p0_x"]) - 1) // sequence
    rows = (np.arange(num) * sequence)[:, None] + np.arange(sequence + 1)
    arrays = {}
    for name, columns, dtype in (("floats", FLOAT_COLUMNS, np.float32), ("codes", CODE_COLUMNS, np.int16)):
        packed = np.stack(
            [np.nan_to_num(block[f"p{p}_{c}"]).astype(dtype) for p in range(NUM_PLAYERS) for c in columns], axis=-1
        )
        arrays[name] = packed[rows]
    return arrays


def ray_batches(corpus: Path, options: argparse.Namespace) -> Iterator[int]:
    """Targets in each batch of Ray Data, shuffled locally, over some epochs."""
    dataset = ray.data.read_parquet(str(corpus / "frames"), columns=COLUMNS).map_batches(
        cut,  # pyrefly: ignore[bad-argument-type]
        batch_size=None,
        fn_kwargs={"sequence": options.sequence},
    )
    for _ in range(options.epochs):
        for batch in dataset.iter_batches(
            batch_size=options.batch,
            local_shuffle_buffer_size=4 * options.batch,
            local_shuffle_seed=0,
            prefetch_batches=2,
        ):
            yield len(batch["floats"]) * options.sequence


def ray_data(corpus: Path, options: argparse.Namespace) -> float:
    """Frames a second of Ray Data; Ray's own start is not counted."""
    start_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    total = sum(ray_batches(corpus, options))
    seconds = time.perf_counter() - started
    ray.shutdown()
    return total / seconds


def wait_share_of_a_loop(index: GameIndex, options: argparse.Namespace) -> float:
    """Part of the time waited for frames by a loop that takes `need` targets a second, after its first pool."""
    batch = max(1, min(options.batch, options.need // (10 * options.sequence)))
    with BatchLoader(
        order_of(index, options, batch), index, options.device, data=DataConfig(device_cache="never")
    ) as feed:
        next(feed)
        started, waited, targets = time.perf_counter(), feed.waited_s, 0
        while (passed := time.perf_counter() - started) < options.seconds:
            targets += next(feed).num_examples * options.sequence
            time.sleep(max(0.0, targets / options.need - passed))
        return (feed.waited_s - waited) / passed


def wait_share_of_training(corpus: Path, options: argparse.Namespace) -> float:
    """Part of the time waited for frames by a run of `wm train`, the first pool included."""
    from wm.data.training_data import open_data
    from wm.runs.run import Run
    from wm.training.trainer import train

    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            load_yaml(SHIPPED_CONFIGS / f"{options.config}.yaml", RunConfig),
            train_corpus=corpus,
            eval_corpus=None,
            out=Path(folder),
            max_seconds=options.train_seconds,
            log_every_s=1.0,
            use_gpu=options.device.type == "cuda",
        )
        train(Run(config), open_data(config), lambda rows: None, None)
        rows: list[dict[str, Any]] = [json.loads(line) for line in (Path(folder) / "log.jsonl").open()]
    return float(np.mean([row["wait_share"] for row in rows if row["kind"] == "train"]))


def measure(corpus: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it; see the module's head."""
    index = index_games(open_corpus(corpus), "all", SplitConfig())
    pyarrow_before = pyarrow_scan(index, options)
    cold = ours(index, options, "never")
    pyarrow = (pyarrow_before + pyarrow_scan(index, options)) / 2
    resident = ours(index, options, "always")
    examples = OneExample(index, read_games(index, np.arange(len(index))), options.sequence)
    loaders = {number: data_loader(examples, options, number) for number in (0, 2)}
    trains = options.train_seconds > 0
    return cold | {
        "resident_frames_per_s": resident["frames_per_s"],
        "pyarrow_frames_per_s": pyarrow,
        "dataloader_frames_per_s": max(loaders.values()),
        "dataloader_0_workers_frames_per_s": loaders[0],
        "dataloader_2_workers_frames_per_s": loaders[2],
        "ray_data_frames_per_s": ray_data(corpus, options),
        "wait_share": wait_share_of_training(corpus, options) if trains else wait_share_of_a_loop(index, options),
        "wait_share_of": f"training {options.config}" if trains else f"a loop of {options.need} targets/s",
        "games": len(index),
        "frames": int(index.num_frames.sum()),
        "batch": options.batch,
        "sequence": options.sequence,
        "cores": num_cores(),
        "device": torch.cuda.get_device_name() if options.device.type == "cuda" else platform.processor() or "cpu",
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    rows = {
        "ours, from Parquet": figures["frames_per_s"],
        "ours, resident": figures["resident_frames_per_s"],
        "pyarrow scan": figures["pyarrow_frames_per_s"],
        "DataLoader, 0 workers": figures["dataloader_0_workers_frames_per_s"],
        "DataLoader, 2 workers": figures["dataloader_2_workers_frames_per_s"],
        "Ray Data": figures["ray_data_frames_per_s"],
    }
    lines = [f"{'':<24}{'frames/s':>14}{'of ours':>10}"]
    lines += [f"{name:<24}{speed:>14,.0f}{speed / figures['frames_per_s']:>10.2f}" for name, speed in rows.items()]
    lines.append(f"waiting for frames in {figures['wait_share_of']}: {figures['wait_share']:.2%} of the time")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="by default a few synthetic games")
    parser.add_argument("--batch", type=int, default=512, help="sequences in a batch")
    parser.add_argument("--sequence", type=int, default=64, help="predictions in a sequence")
    parser.add_argument("--pool-frames", type=int, default=DataConfig().pool_frames)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for what is not measured in epochs")
    parser.add_argument("--need", type=int, default=8_000, help="targets a second of the loop of --train-seconds 0")
    parser.add_argument("--config", default="mamba2-medium", help="of the training run")
    parser.add_argument("--train-seconds", type=float, default=15.0)
    parser.add_argument("--tiny", action="store_true", help="a few synthetic games, seconds in all")
    options = parser.parse_args()
    options.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.tiny:
        options.batch, options.epochs, options.seconds, options.train_seconds = 16, 1, 0.5, 0.0
    with tempfile.TemporaryDirectory() as folder:
        corpus = options.corpus or synthetic_corpus(Path(folder), 4 if options.tiny else 64, 2_000)
        figures = measure(corpus.resolve(), options)
    print(table(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
