"""Chunks of replays over the processes and machines of a Ray cluster, with Ray Data."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from datasets.encode import Chunk, ChunkResult, encode_chunk
from datasets.ray_start import start_ray, tasks_at_once


def _encode_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"result": pickle.dumps(encode_chunk(pickle.loads(row["chunk"])))}


def encode_on_ray(chunks: Sequence[Chunk]) -> Iterator[ChunkResult]:
    """Run `encode_chunk` over chunks with Ray Data and yield the results in order.

    Frames go from the worker's memory to its shard; only rows of games and rejects pass the object store.
    """
    if not chunks:
        return
    start_ray()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    items = [{"chunk": pickle.dumps(chunk)} for chunk in chunks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _encode_row,
        compute=ray.data.TaskPoolStrategy(size=tasks_at_once(len(items))),
        num_cpus=1,
    )
    for row in dataset.iter_rows():
        yield pickle.loads(row["result"])
