"""Encoding the chunks of a feed on the processes and machines of a Ray cluster, with Ray Data.

A read task on the driver's node scans the sources and streams chunks of byte ranges. Archives that must be read from
their start have read tasks of their own, on any node that can see them, whose chunks carry contents. A pool of actors
encodes all chunks, each in a child process that may crash (`datasets.pipeline.parser_process`). Ray Data applies
backpressure to the read tasks, so memory stays bounded. Only small results wait until their turn
(`datasets.pipeline.chunk_order`).
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from datasets.corpus.chunk import ChunkResult, store_files
from datasets.pipeline.chunk_order import in_order
from datasets.pipeline.feed import SCAN, Feed
from datasets.pipeline.known_ids import NO_IDS
from datasets.pipeline.memory_budget import (
    CLUSTER_HEADROOM_BYTES,
    PARSER_BYTES,
    READER_BYTES,
    MemoryPlan,
    plan_for_cluster,
    plan_memory,
)
from datasets.pipeline.parser_process import ParserProcess
from datasets.pipeline.shared_paths import nodes_that_see, require_here, require_shared
from datasets.pipeline.worker_errors import reraise_worker_errors
from datasets.runtime.hardware import num_cores
from datasets.runtime.process.termination import ends_within
from datasets.runtime.ray_cluster import alive_nodes, start_ray, uses_cluster
from datasets.runtime.storage.folder import open_folder
from datasets.sources.archives.sevenzip import SHARED_BYTES
from datasets.sources.storage import is_remote

SHUTDOWN_SECONDS = 15.0
"""After SIGTERM. The shutdown of Ray Data's executor (2.60) sometimes hangs; commits are on the disk by then."""
CHUNKS_IN_FLIGHT = 2
"""Chunks assigned to a parser at once, so that it does not wait for the driver (`benchmarks/encode.py`)."""


class _ChunkSource(Datasource):
    """Streams of a feed as a Ray Data source: a read task for each group of them, which yields a row per chunk."""

    def __init__(self, feed: ray.ObjectRef, groups: list[tuple[int, ...]]) -> None:
        super().__init__()
        self._feed = feed
        self._groups = groups

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: depends on the contents of the archives."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list:
        """A task for each group, whatever the parallelism."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_blocks, self._feed, group), metadata) for group in self._groups]


def _blocks(feed_ref: ray.ObjectRef, group: tuple[int, ...]) -> Iterator[pa.Table]:
    feed: Feed = ray.get(feed_ref)
    if group != (SCAN,):
        require_here([feed.archives[stream - SCAN - 1].location for stream in group])
    for position, chunk in feed.scan_chunks() if group == (SCAN,) else feed.group_chunks(group):
        columns = {"position": [pickle.dumps(position)], "chunk": [pickle.dumps(chunk)]}
        yield pa.table({name: pa.array(values, pa.large_binary()) for name, values in columns.items()})


class _Parser:
    """An actor of the pool."""

    def __init__(
        self, headroom_bytes: int, paths: tuple[str, ...], out: str, staging: str, known_games: ray.ObjectRef
    ) -> None:
        require_here(paths)
        self._folder, self._staging = open_folder(out), Path(staging)
        if is_remote(out):
            self._staging.mkdir(parents=True, exist_ok=True)
        self._process = ParserProcess(memory_bytes=headroom_bytes, known_games=ray.get(known_games))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        result = self._process.encode(row["chunk"])
        store_files(pickle.loads(result), self._staging, self._folder)
        return {"position": row["position"], "result": result}


def encode_on_ray(feed: Feed, limit_bytes: int | None = None, num_workers: int | None = None) -> Generator[ChunkResult]:
    """Run `encode_chunk` over a feed's chunks with Ray Data and yield the results in order.

    Workers write frames into the corpus's folder; only rows of games and rejects come back. Closing the generator stops
    the workers.

    Args:
        limit_bytes: memory of all processes on this machine; None is the default for this machine. On a cluster it
            bounds each parser, by default for machines with a few GB per CPU.
        num_workers: parsers; None is one for each CPU that there is at the moment.
    Raises:
        UserError: a node of the cluster cannot see the sources or the corpus.
        OSError: a worker could not write to the corpus's disk.
        WorkerError: a worker failed.
    """
    with ends_within(SHUTDOWN_SECONDS):
        yield from _encode(feed, limit_bytes, num_workers)


def _encode(feed: Feed, limit_bytes: int | None, num_workers: int | None) -> Generator[ChunkResult]:
    groups = feed.archive_groups()
    plan = _start(limit_bytes, num_workers, len(groups))
    paths = tuple(path for path in (*feed.ranged_sources, feed.out) if not is_remote(path))
    if uses_cluster():
        require_shared(paths)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False  # `in_order` does that, and holds up no archive for another
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=plan.object_store_bytes)
    context.target_max_block_size = 1  # one chunk per block
    context.raise_original_map_exception = True  # for reraise_worker_errors
    _silence_ray_data(context)
    feed_ref = ray.put(replace(feed, dictionary_bytes=plan.dictionary_bytes, known_games=NO_IDS))
    known_ref = ray.put(feed.known_games)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    chunks = ray.data.read_datasource(
        _ChunkSource(feed_ref, [(SCAN,)]), override_num_blocks=1, num_cpus=0, label_selector=here
    )
    if groups:
        chunks = chunks.union(_read_archives(feed, feed_ref, groups, plan))
    results = chunks.map(
        _Parser,
        fn_constructor_kwargs={
            "headroom_bytes": plan.parser_headroom_bytes,
            "paths": paths,
            "out": feed.out,
            "staging": feed.staging,
            "known_games": known_ref,
        },
        compute=_pool(plan, num_workers),
        num_cpus=1,
        memory=PARSER_BYTES + plan.parser_headroom_bytes if uses_cluster() else None,  # a small node runs fewer parsers
    )
    with reraise_worker_errors(), contextlib.closing(iter(results.iter_rows())) as rows:
        for result in in_order((pickle.loads(row["position"]), row["result"]) for row in rows):
            yield pickle.loads(result)


def _start(limit_bytes: int | None, num_workers: int | None, num_archives: int) -> MemoryPlan:
    """Start or join Ray."""
    if not uses_cluster():
        plan = plan_memory(limit_bytes, num_workers or num_cores(), num_archives)
        start_ray(min_cpus=plan.num_parsers, object_store_bytes=plan.object_store_bytes)
        return plan
    start_ray()
    nodes = [node for node in alive_nodes() if node.num_cpus]
    num_cpus = sum(node.num_cpus for node in nodes)
    plural = "" if len(nodes) == 1 else "s"
    print(f"encoding on {len(nodes)} node{plural} with {num_cpus:g} CPUs, and on nodes that join", flush=True)
    headroom = CLUSTER_HEADROOM_BYTES
    if limit_bytes is not None:
        headroom = plan_memory(limit_bytes, num_cores()).parser_headroom_bytes
    return plan_for_cluster([(node.num_cpus, node.memory_bytes) for node in nodes], num_archives, headroom, num_workers)


def _read_archives(
    feed: Feed, feed_ref: ray.ObjectRef, groups: list[tuple[int, ...]], plan: MemoryPlan
) -> ray.data.Dataset:
    """Chunks of the archives, read by `plan.num_readers` tasks; on a cluster by as many as there are CPUs for."""
    source = _ChunkSource(feed_ref, groups)
    if not uses_cluster():
        return ray.data.read_datasource(
            source, override_num_blocks=len(groups), num_cpus=0, concurrency=plan.num_readers
        )
    if plan.num_readers == 0 and plan.num_parsers == 1 and any(node.num_cpus for node in alive_nodes()):
        return ray.data.read_datasource(source, override_num_blocks=len(groups), num_cpus=0, concurrency=1)
    paths = [archive.location for archive in feed.archives if not is_remote(archive.location)]
    seeing = nodes_that_see(paths)
    memory_bytes = READER_BYTES + plan.dictionary_bytes - SHARED_BYTES
    labels = None if seeing is None else {"ray.io/node-id": f"in({', '.join(seeing)})"}
    return ray.data.read_datasource(
        source, override_num_blocks=len(groups), num_cpus=1, memory=memory_bytes, label_selector=labels
    )


def _pool(plan: MemoryPlan, num_workers: int | None) -> ActorPoolStrategy:
    """The plan's number of parsers; on a cluster more when it grows."""
    if not uses_cluster():
        return ActorPoolStrategy(size=plan.num_parsers, max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT)
    return ActorPoolStrategy(
        min_size=1,
        max_size=num_workers,
        initial_size=plan.num_parsers,
        max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT,
    )


def _silence_ray_data(context: ray.data.DataContext) -> None:
    """Keep Ray Data's progress bars and messages off the console; its log file still has everything."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # fewer chunks than parsers
