"""Prints for how many seconds nothing has used a node, or any node of the cluster, as the autoscaler counts it.

    python -m cluster.nodes.node_usage GCS_ADDRESS [NODE_ID]

Work is what Ray's raylets report: resources of tasks, actors and placement groups, running workers, objects. Without a
node, drivers count too. A program of its own, because the watchdog must not depend on Ray.
"""

from __future__ import annotations

import sys
from typing import Any

from ray._raylet import GcsClient  # pyrefly: ignore[missing-module-attribute]
from ray.autoscaler.v2.sdk import get_cluster_resource_state

OWN_NAMESPACES = "_ray_internal_"
DEAD = 2
"""`NodeStatus.DEAD` of Ray's autoscaler.proto."""


def seconds_idle(gcs_address: str, node_id: str | None = None) -> float:
    """Seconds since a node (or any node) was in use; 0 while it is. Infinite for a node that Ray does not know."""
    client = GcsClient(address=gcs_address)
    nodes = [node for node in get_cluster_resource_state(client).node_states if node.status != DEAD]
    if node_id is not None:
        nodes = [node for node in nodes if node.node_id.hex() == node_id]
    elif any(not job.is_dead and not _is_rays_own(job) for job in client.get_all_job_info().values()):
        return 0.0
    return min((node.idle_duration_ms / 1000 for node in nodes), default=float("inf"))


def _is_rays_own(job: Any) -> bool:
    """Whether a driver is the dashboard's, which lives as long as the head node once a job was submitted."""
    return job.config.ray_namespace.startswith(OWN_NAMESPACES)


if __name__ == "__main__":
    print(seconds_idle(*sys.argv[1:]))
