"""Memory of this process on the host: its peak, and glibc's allocator settings.

Linux and glibc only: elsewhere the peak is unknown and the allocator keeps its defaults.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK_RSS = "5"
"""proc(5), clear_refs: resets the peak resident set size to the current one. psutil can neither reset nor read it."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from malloc.h."""
MALLOC_THRESHOLD_BYTES = 1 << 30


class PeakHostMemory:
    """Context manager: `bytes` is the block's peak memory beyond what the process held before, or None if unknown.

    Freed memory that the allocator still holds is returned to the system first: the block would reuse it and seem to
    need less than it does.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakHostMemory:
        malloc_trim()
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text(RESET_PEAK_RSS)
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        peak = _status_bytes("VmHWM")
        if self._before is not None and peak is not None:
            self.bytes = max(0, peak - self._before)


def raise_malloc_thresholds() -> None:
    """Let this process keep freed memory for its next step (mallopt(3)); does nothing without glibc.

    By default the large tensors of a step are returned to the system, and come back as tens of thousands of page
    faults: a fifth of a step on two cores.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, MALLOC_THRESHOLD_BYTES)


def malloc_trim() -> None:
    """Return freed memory to the system (malloc_trim(3)); does nothing without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(name: str) -> int | None:
    """A figure of /proc/self/status; None if there is no such file or field."""
    with contextlib.suppress(OSError):
        found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else None
    return None
