"""The machines as the watch sees them, and what it does on them: by Ray, or this machine alone without a cluster."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray._private.state import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.watch.observation import Node
from cluster.watch.spending import node_price
from datasets.runtime.hardware import num_cores
from datasets.runtime.process.stacks import ProcessStacks, collect_stacks, kill_registered
from datasets.runtime.ray_cluster import start_ray, uses_cluster

TASK_TIMEOUT_S = 30.0
"""For the answers of all nodes; a node that is gone does not answer."""
SUPERVISOR = "ray::JobSupervisor"
"""Beginning of its process title (Ray 2.60)."""
SHUT_DOWN_S, POLL_S = 5.0, 0.2
"""Ray's processes end one after another: so long is waited for the first of them that tells."""
INSTANCE_TYPE_LABELS = ("ray.io/instance-type", "instance-type", "ray.io/node-type")
"""Labels of a node in Ray that may name its instance type."""
MARKET_TYPE_LABEL = "market-type"
"""Label with the value `spot` or `on-demand`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """The machines at one moment."""

    nodes: tuple[Node, ...]
    resources: dict[str, float] = field(default_factory=dict)
    """GPUs and CPUs of all of them."""
    draining: frozenset[str] = frozenset()


class ClusterView:
    """This machine alone, where no cluster is used."""

    def __init__(self, prices: dict[str, float]) -> None:
        """
        Args:
            prices: see `node_price`.
        """
        self._prices = prices

    def open(self) -> None:
        """Connect, where there is a cluster.

        Raises:
            UserError: no cluster is at RAY_ADDRESS.
        """

    def machines(self) -> Machines | None:
        """What is there; None if it cannot be seen at the moment. May wait for the network."""
        price = node_price(self._prices, None, _num_gpus(), num_cores())
        return Machines(nodes=(Node(node_id="local", name=socket.gethostname(), usd_per_hour=price),))

    def sees_resources(self) -> bool:
        """Whether `machines` knows what Ray may use: not on one machine, where the command starts its own Ray."""
        return False

    def stacks(self, works_for: str) -> list[ProcessStacks]:
        """The stacks of each process that works for a location."""
        return collect_stacks(works_for)

    def kill_workers(self, works_for: str) -> int:
        """End the processes that still work for a location; returns their number."""
        return len(kill_registered(works_for))

    def is_shut_down(self) -> bool:
        """Whether this process is to end because Ray on its machine does, which is waited for some seconds."""
        return False

    def release(self) -> None:
        """Withdraw what was asked of the autoscaler; machines without work end after their idle time."""

    def close(self) -> None:
        """Disconnect."""


class RayView(ClusterView):
    """The nodes of the cluster at RAY_ADDRESS."""

    def open(self) -> None:
        start_ray()
        self._gcs_address = ray.get_runtime_context().gcs_address
        self._supervisor = _supervisor()

    def machines(self) -> Machines | None:
        try:
            alive = [node for node in ray.nodes() if node["Alive"]]
            draining = frozenset(ray_state.get_draining_nodes())
        except Exception:  # Ray raises many kinds while its head is away
            return None
        resources: Counter[str] = Counter()
        for node in alive:
            resources.update({kind: node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")})
        nodes = tuple(self._node(node) for node in alive)
        return Machines(nodes=nodes, resources=dict(resources), draining=draining)

    def sees_resources(self) -> bool:
        return True

    def stacks(self, works_for: str) -> list[ProcessStacks]:
        found = {(one.host, one.pid): one for one in super().stacks(works_for)}  # the driver's, at the least
        for stacks in self._on_each_node(collect_stacks, works_for):
            for one in stacks:
                found.setdefault((one.host, one.pid), one)
        return list(found.values())

    def kill_workers(self, works_for: str) -> int:
        return super().kill_workers(works_for) + sum(
            len(killed) for killed in self._on_each_node(kill_registered, works_for)
        )

    def is_shut_down(self) -> bool:
        deadline = time.monotonic() + SHUT_DOWN_S
        while time.monotonic() < deadline:
            if not _answers(self._gcs_address) or (self._supervisor is not None and not self._supervisor.is_running()):
                return True
            time.sleep(POLL_S)
        return False

    def release(self) -> None:
        from ray.autoscaler.sdk import request_resources

        def withdraw() -> None:
            with contextlib.suppress(Exception):  # a cluster without an autoscaler, or that is away
                request_resources(num_cpus=0, bundles=[])

        thread = threading.Thread(target=withdraw, daemon=True)
        thread.start()
        thread.join(TASK_TIMEOUT_S)

    def close(self) -> None:
        ray.shutdown()

    def _node(self, node: dict[str, Any]) -> Node:
        labels, resources = node.get("Labels") or {}, node["Resources"]
        instance_type = next((labels[name] for name in INSTANCE_TYPE_LABELS if name in labels), None)
        is_spot = labels.get(MARKET_TYPE_LABEL) == "spot"
        gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
        price = node_price(self._prices, instance_type, gpus, cpus, is_spot=is_spot)
        return Node(node_id=node["NodeID"], name=_name(node), usd_per_hour=price)

    def _on_each_node(self, function: Any, works_for: str) -> list[Any]:
        """The answers of the nodes that answer in time."""
        try:
            task = ray.remote(num_cpus=0)(function)
            places = [
                NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]
            ]
            asked = [task.options(scheduling_strategy=place).remote(works_for) for place in places]
            done, late = ray.wait(asked, num_returns=len(asked), timeout=TASK_TIMEOUT_S)
            for one in late:
                ray.cancel(one, force=True)
        except Exception:  # the head is away
            return []
        answers = []
        for one in done:
            with contextlib.suppress(Exception):  # the node was lost
                answers.append(ray.get(one))
        return answers


def view_of(prices: dict[str, float]) -> ClusterView:
    """The cluster that RAY_ADDRESS names, else this machine.

    Raises:
        UserError: RAY_ADDRESS is where jobs are submitted.
    """
    return RayView(prices) if uses_cluster() else ClusterView(prices)


def _supervisor() -> psutil.Process | None:
    """Ray's process that started this job, which outlives the job after `ray job stop`; None outside of Ray's jobs."""
    for process in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(SUPERVISOR):
                return process
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def _name(node: dict[str, Any]) -> str:
    return f"{node.get('NodeManagerHostname') or 'node'} ({node['NodeManagerAddress']})"


def _num_gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()
