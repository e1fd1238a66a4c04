"""What a job has cost so far: the prices of the machines that are there, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.watch.observation import Node

MAX_GAP_S = 900.0
"""The longest time between two watches that is charged: machines without a head end themselves by then."""


@dataclass(slots=True)
class Spending:
    """Money spent since the job began, over all attempts; survives the watch in state.json."""

    usd: float = 0.0
    usd_per_hour: float = 0.0
    """Of the machines that were there at the last observation."""
    at_s: float | None = None
    """When that was, seconds since 1970."""

    def take_over(self, now_s: float) -> None:
        """Go on where an earlier watch has ended: the time between is charged, up to MAX_GAP_S."""
        if self.at_s is not None:
            self.at_s = max(self.at_s, now_s - MAX_GAP_S)

    def observe(self, now_s: float, nodes: Sequence[Node] | None) -> None:
        """Charge the time since the last observation, at the prices of the machines seen then.

        Args:
            nodes: that are there now; None if they cannot be seen, so that those of before are charged on.
        """
        if self.at_s is not None:
            self.usd += self.usd_per_hour * max(0.0, now_s - self.at_s) / 3600
        self.at_s = now_s
        if nodes is not None:
            self.usd_per_hour = sum(node.usd_per_hour or 0.0 for node in nodes)

    def after(self, seconds: float) -> float:
        """Money spent once the machines have been there for so long, USD."""
        return self.usd + self.usd_per_hour * seconds / 3600


def node_price(
    prices: dict[str, float], instance_type: str | None, num_gpus: float, num_cpus: float, *, is_spot: bool = False
) -> float | None:
    """Price of a machine, USD per hour: that of its type, else of its GPUs, else of its CPUs; None if none is known.

    Args:
        prices: instance type, instance type and ":spot", "GPU" or "CPU" -> USD per hour.
        is_spot: take the spot price of the type, if one is known.
    """
    for name in (f"{instance_type}:spot",) * is_spot + (instance_type,):
        if name in prices:
            return prices[name]
    if num_gpus and "GPU" in prices:
        return num_gpus * prices["GPU"]
    return num_cpus * prices["CPU"] if "CPU" in prices else None
