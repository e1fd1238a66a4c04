"""The dearest hour that a cluster file allows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hour:
    """The dearest set of machines that may run at once."""

    usd: float
    """At the prices given; spot machines count at them too, which bounds theirs."""
    machines: str
    """Such as `4 x p4de.24xlarge, 1 x m7i.xlarge`."""
    unknown: tuple[str, ...]
    """Types without a price, which count as dearer than all others."""


def most_expensive_hour(config: dict[str, Any], prices: Mapping[str, float]) -> Hour:
    """The dearest machines that fit into `max_workers` of the file and of each type, and the head node.

    Args:
        config: a cluster file with `available_node_types`.
        prices: dollars an hour of a type of machine (InstanceType of AWS, machineType of Google Cloud).
    """
    types, head = config["available_node_types"], config["head_node_type"]
    most = config.get("max_workers", 2)
    workers = [
        machine
        for node_type in types.values()
        for machine in [machine_of(node_type)] * node_type.get("max_workers", most)
    ]
    workers.sort(key=lambda machine: prices.get(machine, float("inf")), reverse=True)
    machines = Counter([*workers[:most], machine_of(types[head])])
    return Hour(
        usd=sum(prices.get(machine, 0.0) * number for machine, number in machines.items()),
        machines=", ".join(f"{number} x {machine}" for machine, number in machines.items()),
        unknown=tuple(machine for machine in machines if machine not in prices),
    )


def machine_of(node_type: dict[str, Any]) -> str:
    """The cloud's name of a node type's machine."""
    node = node_type["node_config"]
    return str(node.get("InstanceType") or node.get("machineType") or "unknown").rpartition("/")[2]
