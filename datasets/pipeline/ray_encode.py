"""Encoding the chunks of a feed on the processes and machines of a Ray cluster, with Ray Data.

One read task on the driver's node scans the sources and streams chunks: byte ranges where members can be read by range,
contents where an archive must be read from its start. A pool of actors encodes them, each in a child process that may
crash (`datasets.pipeline.parser_process`). Ray Data applies backpressure to the read task, so memory stays bounded.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
from collections.abc import Generator, Iterable, Iterator
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
from datasets.pipeline.feed import Feed
from datasets.pipeline.memory_budget import PARSER_BYTES, MemoryPlan, plan_for_cluster, plan_memory
from datasets.pipeline.parser_process import ParserProcess
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.runtime.process.termination import ends_within
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from datasets.sources.storage import is_remote

SHUTDOWN_SECONDS = 15.0
"""After SIGTERM. The shutdown of Ray Data's executor (2.60) sometimes hangs; commits are on the disk by then."""
CHUNKS_IN_FLIGHT = 2
"""Chunks assigned to a parser at once, so that it does not wait for the driver (`benchmarks/encode.py`)."""


class _ChunkSource(Datasource):
    """A feed as a Ray Data source: one task that yields one row per chunk."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown: depends on the contents of the archives."""
        return None

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> list:
        """One task, so that the chunks are in the order of the sources."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_blocks, self._feed), metadata)]


def _blocks(feed: Feed) -> Iterator[pa.Table]:
    for chunk in feed.chunks():
        yield pa.table({"chunk": pa.array([pickle.dumps(chunk)], pa.large_binary())})


class _Parser:
    """An actor of the pool."""

    def __init__(self, headroom_bytes: int, paths: tuple[str, ...]) -> None:
        if missing := _missing_paths(paths):
            raise UserError(_not_shared(missing[0], ray.util.get_node_ip_address()))
        self._process = ParserProcess(memory_bytes=headroom_bytes)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": self._process.encode(row["chunk"])}


def encode_on_ray(feed: Feed, plan: MemoryPlan | None = None) -> Generator[ChunkResult]:
    """Run `encode_chunk` over a feed's chunks with Ray Data and yield the results in order.

    Workers write frames to the staging folder; only rows of games and rejects come back. Closing the generator stops
    the workers.

    Args:
        plan: memory limits; None is the default for this machine, or on a cluster for machines with a few GB per CPU.
    Raises:
        UserError: a node of the cluster cannot see the sources or the corpus.
        OSError: a worker could not write to the staging folder.
    """
    with ends_within(SHUTDOWN_SECONDS):
        yield from _encode(feed, plan)


def _encode(feed: Feed, plan: MemoryPlan | None) -> Generator[ChunkResult]:
    if plan is None and not uses_cluster():
        plan = plan_memory(None, num_cores())
    start_ray(object_store_bytes=None if plan is None else plan.object_store_bytes)
    if uses_cluster():
        cluster = plan_for_cluster(max(1, int(ray.cluster_resources().get("CPU", 1))))
        plan = cluster if plan is None else replace(cluster, parser_headroom_bytes=plan.parser_headroom_bytes)
    assert plan is not None
    paths = (*(source for source in feed.sources if not is_remote(source)), feed.staging)
    if uses_cluster():
        _require_shared(paths)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=plan.object_store_bytes)
    context.target_max_block_size = 1  # one chunk per block
    context.raise_original_map_exception = True  # for _reraise_user_errors
    _silence_ray_data(context)
    chunks = ray.data.read_datasource(
        _ChunkSource(feed),
        override_num_blocks=1,
        num_cpus=0,
        label_selector={"ray.io/node-id": ray.get_runtime_context().get_node_id()},
    )
    results = chunks.map(
        _Parser,
        fn_constructor_kwargs={"headroom_bytes": plan.parser_headroom_bytes, "paths": paths},
        compute=_pool(plan),
        num_cpus=1,
        memory=PARSER_BYTES + plan.parser_headroom_bytes if uses_cluster() else None,  # a small node runs fewer parsers
    )
    with _reraise_user_errors(), contextlib.closing(iter(results.iter_rows())) as rows:
        for row in rows:
            yield pickle.loads(row["result"])


def _silence_ray_data(context: ray.data.DataContext) -> None:
    """Keep Ray Data's progress bars and messages off the console; its log file still has everything."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")  # fewer chunks than parsers


def _pool(plan: MemoryPlan) -> ActorPoolStrategy:
    """The plan's number of parsers; on a cluster one per CPU, and more when the cluster grows."""
    if not uses_cluster():
        return ActorPoolStrategy(size=plan.num_parsers, max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT)
    return ActorPoolStrategy(min_size=1, initial_size=plan.num_parsers, max_tasks_in_flight_per_actor=CHUNKS_IN_FLIGHT)


def _missing_paths(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _require_shared(paths: tuple[str, ...]) -> None:
    """Fail before the job starts if a node cannot see the sources or the corpus."""
    check = ray.remote(num_cpus=0)(_missing_paths)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = ray.get(
        [
            check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)).remote(paths)
            for n in nodes
        ]
    )
    for node, missing in zip(nodes, found, strict=True):
        if missing:
            raise UserError(_not_shared(missing[0], node["NodeManagerAddress"]))


def _not_shared(path: str, node: str) -> str:
    return (
        f"node {node} of the cluster cannot see {path}; put the corpus on shared storage, and the sources on shared "
        "storage or behind s3:// or gs:// URIs"
    )


@contextlib.contextmanager
def _reraise_user_errors() -> Iterator[None]:
    """Raise the UserError or the operating system's error of a worker as such, without Ray's wrappers."""
    try:
        yield
    except ray.exceptions.RayError as error:
        for cause in _causes(error):
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            if isinstance(cause, OSError) and cause.errno is not None:
                raise OSError(cause.errno, cause.strerror, cause.filename) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions that led to an error, Ray's wrappers left out: a wrapper is an instance of its cause's class."""
    if isinstance(error, BaseException):
        if not isinstance(error, ray.exceptions.RayError):
            yield error
        yield from _causes(getattr(error, "cause", None))
        yield from _causes(error.__cause__)
