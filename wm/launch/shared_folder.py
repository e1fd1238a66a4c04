"""Whether all nodes of a cluster share a run's folder. On one node's disk, others would find no lock, stop request or
checkpoint, and the run would end with the node.
"""

from __future__ import annotations

from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import uses_cluster
from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.runs.run import RUN_FILE

EXPECTED = "give a folder on a file system that all nodes share (an absolute path), or s3://BUCKET/FOLDER"
ANSWER_SECONDS = 60.0


def refuse_relative_paths(config: RunConfig) -> None:
    """On a cluster a relative path would lie in the folder of the job, on one node's disk.

    Raises:
        UserError: the run or its checkpoints would be there.
    """
    if not uses_cluster():
        return
    for name, location in (("out", config.out), ("checkpoint.storage_path", config.checkpoint.storage_path)):
        if location is not None and not is_remote(str(location)) and not Path(location).expanduser().is_absolute():
            raise UserError(f"{name}: {location} is relative, so it would be on the disk of one node; {EXPECTED}")


def check_nodes_share(config: RunConfig) -> None:
    """Have every node that can run a worker look for the run's file that this node has written.

    Args:
        config: of a run that was claimed, with absolute paths.
    Raises:
        UserError: a node does not see the run.
    """
    if not uses_cluster() or is_remote(str(config.out)):
        return
    marker = Path(config.out, RUN_FILE)
    needed = "GPU" if config.use_gpu else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(needed, 0) > 0]
    content = marker.read_bytes()
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        answer = _sees.options(num_cpus=0, scheduling_strategy=here).remote(str(marker), content)
        asked[answer] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    blind = sorted({asked[answer] for answer in answered if not _result(answer)})
    if blind:
        raise UserError(f"out: {config.out} is not shared with {', '.join(blind)} of the cluster; {EXPECTED}")


@ray.remote
def _sees(marker: str, content: bytes) -> bool:
    """Runs on a node: whether it sees the file."""
    try:
        return Path(marker).read_bytes() == content
    except OSError:
        return False


def _result(answer: ray.ObjectRef) -> bool:
    """A node's answer; a node that is lost meanwhile is not blind."""
    try:
        return ray.get(answer)
    except ray.exceptions.RayError:
        return True
