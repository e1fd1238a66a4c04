"""A Ray cluster on this machine whose autoscaler starts pretended nodes, with any resources, on demand.

Ray's own `AutoscalingCluster` needs a file that its wheel lacks, and ends every Ray on the machine when it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray.util
from ports import free_ports
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

EMPTY: dict[str, Any] = {
    "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
    "rsync_exclude": [], "rsync_filter": [], "upscaling_speed": 1.0,
} | {
    f"{group}_commands": []
    for group in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
}  # fmt: skip
"""Fields that Ray's autoscaler requires of every cluster file."""


@contextmanager
def autoscaling_cluster(
    folder: Path, head: dict[str, float], worker: dict[str, float], num_workers: int
) -> Iterator[str]:
    """Start a head node; its address. All of its processes end with the block.

    Args:
        head: resources of the head node.
        worker: resources of each node that the autoscaler may start.
        num_workers: most of them at once.
    """
    (port,) = free_ports(1, "")
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {
        "type": "external", "disable_node_updaters": True, "launch_multiple": True, "gcs_address": address,
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": FAKE_HEAD_NODE_ID,
    }  # fmt: skip
    node_types = {
        FAKE_HEAD_NODE_TYPE: {"resources": head, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": num_workers},
    }
    config = EMPTY | {
        "cluster_name": "fake", "max_workers": num_workers, "idle_timeout_minutes": 1, "provider": provider,
        "head_node_type": FAKE_HEAD_NODE_TYPE, "available_node_types": node_types,
    }  # fmt: skip
    (folder / "cluster.json").write_text(json.dumps(config))
    settings = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "WM_TEST_AUTOSCALER": str(folder), "RAY_AUTH_MODE": "token",
    }  # fmt: skip
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", f"--port={port}", f"--num-cpus={head['CPU']:g}",
        f"--autoscaling-config={folder / 'cluster.json'}", f"--temp-dir={os.environ['RAY_TMPDIR']}/{port}",
        "--include-dashboard=false", "--disable-usage-stats",
    ]  # fmt: skip
    try:
        subprocess.run(command, env=os.environ | settings, check=True, capture_output=True, timeout=120)
        yield address
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("WM_TEST_AUTOSCALER") == str(folder):
                    process.kill()
