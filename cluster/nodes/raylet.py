"""The raylet of this machine, found among its processes: whether it lives, its node's id, and what it runs.

No connection to Ray is needed, so this also works while the head, the raylet or the installation is broken. Linux only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
NOT_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Beginnings of the titles of a raylet's children that run no task and no actor (Ray 2.60)."""


@dataclass(frozen=True)
class Raylet:
    """A raylet's process."""

    pid: int
    node_id: str
    """Hex, as `ray drain-node --node-id` takes it."""
    gcs_address: str
    """HOST:PORT of the head's GCS."""


def find_raylet(head: str | None = None, node_ip: str | None = None) -> Raylet | None:
    """The raylet that runs in this network namespace.

    Args:
        head: HOST:PORT; only a raylet of the cluster whose GCS has this port. None: of any cluster.
        node_ip: only a raylet with this address, where several run on one machine.
    """
    for pid in _pids():
        arguments = _command_line(pid)
        if not arguments or not arguments[0].endswith("/raylet") or not _is_in_this_network(pid):
            continue
        options = dict(one[2:].split("=", 1) for one in arguments[1:] if one.startswith("--") and "=" in one)
        gcs = options.get("gcs-address", "")
        if head is not None and gcs.rpartition(":")[2] != head.rpartition(":")[2]:
            continue
        if node_ip is not None and options.get("node_ip_address") != node_ip:
            continue
        return Raylet(pid, options.get("node_id", ""), gcs)
    return None


def work_of(raylet: Raylet) -> list[str]:
    """Titles of the raylet's workers that run a task or hold an actor, such as `ray::MapWorker`."""
    parents: dict[int, int] = {}
    for pid in _pids():
        parent = _parent(pid)
        if parent is not None:
            parents[pid] = parent
    return [
        title
        for pid in parents
        if _is_below(pid, raylet.pid, parents)
        and (title := " ".join(_command_line(pid)).strip()).startswith("ray::")
        and not title.startswith(NOT_WORK)
    ]


def _pids() -> list[int]:
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    seen = set()
    while pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


def _command_line(pid: int) -> list[str]:
    """Arguments of a process; empty for one that has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int | None:
    """None for a process that has ended, also if nobody has waited for it yet."""
    try:
        state, parent = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def _is_in_this_network(pid: int) -> bool:
    try:
        return os.readlink(PROC / str(pid) / "ns" / "net") == os.readlink(PROC / "self" / "ns" / "net")
    except OSError:  # another user's process
        return True
