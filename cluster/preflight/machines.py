"""Machines of a job under Ray: waiting for them, asking each node, and the rehearsing workers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster.preflight.rehearsal import (
    CheckpointFacts,
    DeviceFacts,
    Rehearsed,
    UpdateFacts,
    all_reduce_gb_per_s,
    check_device,
    process_group,
)
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig

Facts = TypeVar("Facts")
ASK_TIMEOUT_S = 300.0
"""Of a question to all nodes; most of it is the start of a worker process on a busy node."""
REHEARSAL_TIMEOUT_S = 1_200.0
NUM_CLOCK_QUESTIONS = 7
PRINT_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RayNode:
    """A node of the cluster."""

    node_id: str
    address: str
    num_gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClockFacts:
    """A node's clock compared with the one of the command."""

    offset_s: float
    """Positive: ahead."""
    error_s: float
    """The offset is known up to this much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFacts:
    """What one worker of the rehearsal found; None where it did not get so far."""

    rank: int
    address: str
    problem: str | None = None
    device: DeviceFacts | None = None
    all_reduce_gb_per_s: float | None = None
    update: UpdateFacts | None = None
    checkpoint: CheckpointFacts | None = None


def nodes() -> list[RayNode]:
    """The nodes that are there."""
    return [
        RayNode(node_id=node["NodeID"], address=node["NodeManagerAddress"], num_gpus=node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def reserved(bundles: Sequence[dict[str, float]], minutes: float) -> Iterator[PlacementGroup | None]:
    """Reserve what a job starts with, so that the autoscaler starts machines; None if they do not come in time."""
    group = placement_group([dict(bundle) for bundle in bundles])
    try:
        began = time.monotonic()
        while not group.wait(timeout_seconds=min(PRINT_EVERY_S, max(0.1, began + 60 * minutes - time.monotonic()))):
            waited = time.monotonic() - began
            if waited >= 60 * minutes:
                yield None
                return
            print(f"waiting for machines since {waited / 60:.0f} minutes", flush=True)
        yield group
    finally:
        remove_placement_group(group)


def ask(where: Sequence[RayNode], question: Callable[..., Facts], *args: Any, **options: Any) -> list[Facts | str]:
    """Call a function on each node at the same time; where it fails, why, in one line."""
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    waiting = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            *args, **options
        )
        for node in where
    ]
    ready, late = ray.wait(waiting, num_returns=len(waiting), timeout=ASK_TIMEOUT_S) if waiting else ([], [])
    for one in late:
        ray.cancel(one, force=True)
    return [_answer(one) if one in ready else f"no answer within {ASK_TIMEOUT_S:.0f} s" for one in waiting]


def clocks(where: Sequence[RayNode]) -> list[ClockFacts | str]:
    """Each node's clock, by the fastest of several questions."""
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(_now)
    found: list[ClockFacts | str] = []
    for node in where:
        there = remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
        best: ClockFacts | str = "no answer"
        for _ in range(NUM_CLOCK_QUESTIONS):
            before = time.time()
            try:
                answer = ray.get(there.remote(), timeout=ASK_TIMEOUT_S)
            except (RayError, GetTimeoutError) as error:
                best = first_line(error)
                break
            after = time.time()
            if isinstance(best, str) or (after - before) / 2 < best.error_s:
                best = ClockFacts(offset_s=answer - (before + after) / 2, error_s=(after - before) / 2)
        found.append(best)
    return found


def _now() -> float:
    return time.time()


class _Worker:
    """An actor of the rehearsal."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}

    def place(self) -> tuple[str, str, int]:
        """Node id and address, and a port that is free here."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), port

    def rehearse(
        self, config: RunConfig, checkpoint: tuple[str, str], address: str, rank: int, num_ranks: int, num_local: int
    ) -> str | None:
        """Do all steps in order; why it stopped, or None. What was found so far is kept in `facts`."""
        facts = self._facts
        try:
            with ExitStack() as closing:
                device = closing.enter_context(process_group(config, address, rank, num_ranks, num_local))
                facts["device"] = check_device(device)
                facts["all_reduce_gb_per_s"] = all_reduce_gb_per_s(device)
                rehearsed = Rehearsed(config, device)
                facts["update"] = rehearsed.update()
                facts["checkpoint"] = rehearsed.checkpoint(*checkpoint)
        except UserError as error:
            return str(error)
        except Exception as error:  # of torch, NCCL or the network: the report names it
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:300]
        return None

    def facts(self) -> dict[str, Any]:
        """What was found."""
        return self._facts


def rehearse(
    group: PlacementGroup, bundles: Sequence[dict[str, float]], config: RunConfig, checkpoint: tuple[str, str]
) -> list[WorkerFacts]:
    """A worker in each bundle, all at the same time.

    Args:
        checkpoint: location, and the folder there.
    """
    actor: Any = ray.remote(_Worker)
    workers = [
        actor.options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote()
        for index, bundle in enumerate(bundles)
    ]
    try:
        places = ray.get([worker.place.remote() for worker in workers], timeout=ASK_TIMEOUT_S)
    except (RayError, GetTimeoutError) as error:
        return [WorkerFacts(rank=0, address="", problem=f"the workers do not start: {first_line(error)}")]
    on_node = [place[0] for place in places]
    ranks = sorted(range(len(workers)), key=lambda index: on_node.index(on_node[index]))  # as Ray Train: by node
    address = f"{places[ranks[0]][1]}:{places[ranks[0]][2]}"
    running = {
        rank: workers[index].rehearse.remote(
            config, checkpoint, address, rank, len(workers), on_node.count(on_node[index])
        )
        for rank, index in enumerate(ranks)
    }
    ray.wait(list(running.values()), num_returns=len(running), timeout=REHEARSAL_TIMEOUT_S)
    return [_worker_facts(rank, places[index][1], workers[index], running[rank]) for rank, index in enumerate(ranks)]


def _worker_facts(rank: int, address: str, worker: Any, running: Any) -> WorkerFacts:
    try:
        problem = ray.get(running, timeout=1)
        facts = ray.get(worker.facts.remote(), timeout=ASK_TIMEOUT_S)
    except GetTimeoutError:
        problem, facts = f"it has not ended after {REHEARSAL_TIMEOUT_S / 60:.0f} minutes", {}
    except RayError as error:
        problem, facts = first_line(error), {}
    ray.kill(worker)
    return WorkerFacts(rank=rank, address=address, problem=problem, **facts)


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:  # whatever the function raised there
        return first_line(error)


def first_line(error: BaseException) -> str:
    """What a remote error says, without its traceback: the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
