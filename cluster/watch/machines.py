"""Machines that come, go, are announced to go, or do not come."""

from __future__ import annotations

from dataclasses import replace

from cluster.watch.observation import Action, Node, Observation, Report


class Machines:
    """Follows the nodes of the cluster and how long the command waits for those it needs."""

    def __init__(self, report_minutes: float, *, needs_prices: bool) -> None:
        """
        Args:
            report_minutes: after which missing machines are reported, once for each wait.
            needs_prices: report machines without a known price, which a budget does not count.
        """
        self._limit_s = report_minutes * 60
        self._nodes: dict[str, Node] | None = None
        self._announced: set[str] = set()
        self._needs_prices = needs_prices
        self._unpriced: set[str] = set()
        self._missing_since_s: float | None = None
        self._is_reported = False

    def restart(self) -> None:
        """The command was started: it waits anew."""
        self._missing_since_s, self._is_reported = None, False

    def changes(self, seen: Observation) -> list[Action]:
        """Events of nodes that joined, were lost, or whose end was announced since the last call."""
        if seen.nodes is None:
            return []
        now = {node.node_id: node for node in seen.nodes}
        before, self._nodes = now if self._nodes is None else self._nodes, now
        actions: list[Action] = []
        for node_id in now.keys() - before.keys():
            actions.append(_event("node joined", now[node_id], f"{now[node_id].name} joined, {len(now)} nodes"))
        for node_id in before.keys() - now.keys():
            actions.append(_event("node lost", before[node_id], f"{before[node_id].name} is gone, {len(now)} nodes"))
        for node_id in seen.draining & now.keys() - self._announced:
            self._announced.add(node_id)
            actions.append(_event("notice", now[node_id], f"{now[node_id].name} will be taken away; the run saves"))
        for node in now.values() if self._needs_prices else ():
            if node.usd_per_hour is None and node.name not in self._unpriced:
                self._unpriced.add(node.name)
                message = f"no price of {node.name} is known: the budget does not count it; --price GPU=USD or CPU=USD"
                actions.append(replace(_event("price unknown", node, message), notifies=True))
        return actions

    def waits(self, now_s: float, missing: str | None) -> list[Action]:
        """The report that machines did not come, if it is due."""
        if missing is None:
            self.restart()
            return []
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        waited_s = now_s - self._missing_since_s
        if self._is_reported or waited_s < self._limit_s:
            return []
        self._is_reported = True
        message = f"machines did not come within {waited_s / 60:,.0f} minutes: {missing}"
        return [Report(kind="machines missing", message=message, facts={"missing": missing}, notifies=True)]


def _event(kind: str, node: Node, message: str) -> Report:
    return Report(kind=kind, message=message, facts={"node": node.name, "node_id": node.node_id})
