"""Which nodes of a Ray cluster see the paths of an encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import ClusterNode, alive_nodes


def require_shared(paths: Sequence[str]) -> None:
    """Fail before the job starts if a node cannot see a path.

    Raises:
        UserError: names the node and the path.
    """
    for node, missing in _missing_by_node(paths):
        if missing:
            raise UserError(_not_shared(missing[0], node.address))


def require_here(paths: Sequence[str]) -> None:
    """Fail if the node of this process, which may have joined the cluster later, cannot see a path.

    Raises:
        UserError: names the node and the path.
    """
    if missing := _missing(paths):
        raise UserError(_not_shared(missing[0], ray.util.get_node_ip_address()))


def nodes_that_see(paths: Sequence[str]) -> list[str] | None:
    """Ids of the nodes that see all paths; None if every node does."""
    found = _missing_by_node(paths)
    seeing = [node.node_id for node, missing in found if not missing]
    return None if len(seeing) == len(found) else seeing


def _missing_by_node(paths: Sequence[str]) -> list[tuple[ClusterNode, list[str]]]:
    nodes = alive_nodes()
    check = ray.remote(num_cpus=0)(_missing)
    strategies = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes]
    found = ray.get([check.options(scheduling_strategy=strategy).remote(paths) for strategy in strategies])
    return list(zip(nodes, found, strict=True))


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _not_shared(path: str, node: str) -> str:
    return (
        f"node {node} of the cluster cannot see {path}; put the corpus on shared storage, and the sources on shared "
        "storage or behind s3:// or gs:// URIs"
    )
