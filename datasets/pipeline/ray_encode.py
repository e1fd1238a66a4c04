"""A feed's chunks over the processes and machines of a Ray cluster, with Ray Data.

One reader, beside the driver, walks the sources and streams chunks: references where members can be read by
range, contents where an archive can only be read from its start. A pool of parsers encodes them, each in a child
process that may die (`datasets.pipeline.parser_process`). Ray Data holds the reader back when the parsers are behind,
so memory stays bounded.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, ExecutionResources
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datasets.corpus.chunk import ChunkResult
from datasets.pipeline.encode import Feed
from datasets.pipeline.memory_budget import PARSER_BYTES, MemoryPlan, plan_for_cluster, plan_memory
from datasets.pipeline.parser_process import ParserProcess
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from datasets.sources.storage import is_remote

CHUNKS_IN_FLIGHT = 2
"""Chunks at a parser: while it encodes one the next waits there, so that it never waits for the driver's next
look (`benchmarks/encode.py`)."""


class _ChunkSource(Datasource):
    """A feed as a source of Ray Data: one task that yields a row a chunk."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: that of the archives' contents."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list:
        """One task: the order of the chunks is that of the sources."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_blocks, self._feed), metadata)]


def _blocks(feed: Feed) -> Iterator[pa.Table]:
    for chunk in feed.chunks():
        yield pa.table({"chunk": pa.array([pickle.dumps(chunk)], pa.large_binary())})


class _Parser:
    """An actor of the pool."""

    def __init__(self, spare_bytes: int, paths: tuple[str, ...]) -> None:
        if missing := _missing_here(paths):
            raise UserError(_not_shared(missing[0], ray.util.get_node_ip_address()))
        self._process = ParserProcess(memory_bytes=spare_bytes)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": self._process.encode(row["chunk"])}


def encode_on_ray(feed: Feed, plan: MemoryPlan | None = None) -> Iterator[ChunkResult]:
    """Run `encode_chunk` over a feed's chunks with Ray Data and yield the results in order.

    Frames go from the worker's memory to its shard; only rows of games and rejects come back.

    Args:
        plan: what may be used of this machine's memory; None is the default share of it, or on a cluster what
            suits a machine with a few GB for each CPU.
    Raises:
        UserError: a machine of the cluster does not see the sources or the corpus.
    """
    if plan is None and not uses_cluster():
        plan = plan_memory(None, num_cores())
    start_ray(object_store_bytes=None if plan is None else plan.object_store_bytes)
    if uses_cluster():
        cluster = plan_for_cluster(max(1, int(ray.cluster_resources().get("CPU", 1))))
        plan = cluster if plan is None else replace(cluster, parser_spare_bytes=plan.parser_spare_bytes)
    assert plan is not None
    paths = (*(source for source in feed.sources if not is_remote(source)), feed.staging)
    if uses_cluster():
        _require_shared(paths)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=plan.object_store_bytes)
    context.target_max_block_size = 1  # a block a chunk
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    chunks = ray.data.read_datasource(
        _ChunkSource(feed),
        override_num_blocks=1,
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    results = chunks.map(
        _Parser,
        fn_constructor_kwargs={"spare_bytes": plan.parser_spare_bytes, "paths": paths},
        compute=_pool(plan),
        num_cpus=1,
        memory=PARSER_BYTES + plan.parser_spare_bytes if uses_cluster() else None,  # so a small node has fewer of them
    )
    with _users_mistakes():
        for row in results.iter_rows():
            yield pickle.loads(row["result"])


def _pool(plan: MemoryPlan) -> ActorPoolStrategy:
    """As many parsers as the plan has; on a cluster one a CPU, and more when it grows."""
    if not uses_cluster():
        return ActorPoolStrategy(size=plan.num_parsers, max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT)
    return ActorPoolStrategy(min_size=1, initial_size=plan.num_parsers, max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT)


def _missing_here(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _require_shared(paths: tuple[str, ...]) -> None:
    """Find out before the job starts that a machine does not see what it is to read or to write."""
    look = ray.remote(num_cpus=0)(_missing_here)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = ray.get(
        [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)).remote(paths)
            for n in nodes
        ]
    )
    for node, missing in zip(nodes, found, strict=True):
        if missing:
            raise UserError(_not_shared(missing[0], node["NodeManagerAddress"]))


def _not_shared(path: str, node: str) -> str:
    return (
        f"{path} is not to be seen on the cluster's node {node}; every node must see the sources and the corpus: "
        "put them on shared storage or name sources by s3:// or gs://"
    )


@contextlib.contextmanager
def _users_mistakes() -> Iterator[None]:
    """A parser that could not start for a reason the user can mend, told as such."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or getattr(cause, "cause", None)
        if cause is not None:
            raise UserError(str(cause)) from error
        raise
