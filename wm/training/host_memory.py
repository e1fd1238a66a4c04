"""Memory of the host: what is free, and what a piece of work takes at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

from datasets.runtime.hardware import total_memory_bytes

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Sets the kernel's peak of a process back to what it holds now (proc(5), clear_refs)."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), as malloc.h numbers them."""
LARGEST_KEPT_BYTES = 1 << 30
GROUP_USES: tuple[tuple[str, str, str], ...] = (
    ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
)
"""What a container uses, and how much of that is files' pages that the kernel would give up."""


def available_bytes() -> int:
    """What can be taken now: the machine's available memory, or what is left of a container's limit."""
    limit = total_memory_bytes()
    left = [limit]
    with contextlib.suppress(OSError, TypeError):  # no Linux
        left.append(1024 * _number("MemAvailable", Path("/proc/meminfo").read_text()))
    for usage, stat, reclaimable in GROUP_USES:
        with contextlib.suppress(OSError, ValueError, TypeError):  # no such group
            used = int(Path(usage).read_text())
            left.append(limit - used + _number(reclaimable, Path(stat).read_text()))
    return max(0, min(left))


class PeakOfHost:
    """Context manager; `bytes` afterwards is what the block took at its peak beyond what was held before.

    None where the system does not tell. Memory that the allocator keeps for later is given back first: the block would
    use it again and seem to take less than it does.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakOfHost:
        give_back()
        with contextlib.suppress(OSError, TypeError):
            RESET.write_text(RESET_PEAK)
            self._before = 1024 * _number("VmRSS", STATUS.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.bytes = max(0, 1024 * _number("VmHWM", STATUS.read_text()) - self._before)


def keep_freed() -> None:
    """Let this process keep what it frees for its next step, where the C library can (mallopt(3)).

    By default a step's large tensors go back to the system and come back as tens of thousands of page faults, a fifth
    of a step on two cores.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            library.mallopt(option, LARGEST_KEPT_BYTES)


def give_back() -> None:
    """Return freed memory to the system, where the C library can (malloc_trim(3))."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _number(name: str, text: str) -> int:
    """The number behind a name at a line's start.

    Raises:
        TypeError: there is none.
    """
    return int(re.search(rf"^{name}:?\s+(\d+)", text, re.MULTILINE)[1])  # pyrefly: ignore
