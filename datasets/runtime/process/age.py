"""When this process began."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS_BEFORE_START = 19
"""Fields of /proc/PID/stat between the process' name, which may contain spaces, and its start (proc(5), field 22)."""


def process_started_at() -> float:
    """The start of this process as `time.time()`; where the system does not tell, now."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[TICKS_BEFORE_START])
        since_boot = ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        return time.time()
