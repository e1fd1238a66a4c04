"""CPU cores and memory of this machine, and the memory use of processes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Memory limits of a container (cgroup v2 and v1), which psutil does not read."""
CGROUP_USAGE = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
)
"""Memory in use by a container, its statistics, and their field for page cache that the kernel can reclaim."""


def num_cores() -> int:
    """Cores that this process may run on."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return len(process.cpu_affinity())
    return psutil.cpu_count() or 1


def total_memory_bytes() -> int:
    """Memory of this machine, or the limit of the container that this process runs in."""
    total = psutil.virtual_memory().total
    for path in CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total


def available_memory_bytes() -> int:
    """Memory that can be allocated now: the machine's available memory, or what is left of a container's limit."""
    limit = total_memory_bytes()
    available = [limit, psutil.virtual_memory().available]
    for usage, statistics, reclaimable in CGROUP_USAGE:
        try:
            used = int(Path(usage).read_text())
            fields = dict(line.split() for line in Path(statistics).read_text().splitlines())
            available.append(limit - used + int(fields[reclaimable]))
        except (OSError, ValueError, KeyError):  # no such control group
            continue
    return max(0, min(available))


def process_tree(root: int) -> list[int]:
    """Process ids of a process and all its descendants; empty if it has exited."""
    try:
        process = psutil.Process(root)
        return [root, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def process_memory(pid: int) -> int:
    """Memory of one process in bytes, 0 if it has exited.

    On Linux the proportional set size (PSS): shared pages are divided among the processes that map them. Elsewhere the
    resident set size.
    """
    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0
    return getattr(memory, "pss", memory.rss)


def tree_memory(root: int | None = None) -> int:
    """Memory of a process and all its descendants in bytes (`process_memory`).

    Args:
        root: process id; None is this process.
    """
    return sum(map(process_memory, process_tree(root or os.getpid())))
