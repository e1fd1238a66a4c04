"""CPU cores and memory of this machine, and the memory use of processes.

psutil is imported by the functions that need it: training and evaluation on Linux do not.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Memory limits of a container (cgroup v2 and v1), which the machine's totals do not show."""
CGROUP_CPUS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files with a container's CPU time and the period that it is for, microseconds (cgroup v2 and v1)."""
CGROUP_USAGE = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
)
"""Memory in use by a container, its statistics, and their field for page cache that the kernel can reclaim."""


def num_cores() -> int:
    """Cores that this process may run on: by its affinity, and by the CPU time that its container may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # none on macOS
    for paths in CGROUP_CPUS:
        try:
            quota, period = " ".join(Path(path).read_text() for path in paths).split()
            if int(quota) > 0:  # -1 in cgroup v1: no limit
                return max(1, min(cores, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return cores


def total_memory_bytes() -> int:
    """Memory of this machine, or the limit of the container that this process runs in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return total


def available_memory_bytes() -> int:
    """Memory that can be allocated now: the machine's available memory, or what is left of a container's limit."""
    limit = total_memory_bytes()
    available = [limit, _available_on_machine()]
    for usage, statistics, reclaimable in CGROUP_USAGE:
        try:
            used = int(Path(usage).read_text())
            fields = dict(line.split() for line in Path(statistics).read_text().splitlines())
            available.append(limit - used + int(fields[reclaimable]))
        except (OSError, ValueError, KeyError):  # no such control group
            continue
    return max(0, min(available))


def _available_on_machine() -> int:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # not Linux
        import psutil

        return psutil.virtual_memory().available


def process_tree(root: int) -> list[int]:
    """Process ids of a process and all its descendants; empty if it has exited."""
    import psutil

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
    import psutil

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
