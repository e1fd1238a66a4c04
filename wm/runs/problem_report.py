"""Problems that do not stop a run, reported on stderr."""

from __future__ import annotations

import contextlib
import sys


def report_once(problem: str, error: Exception, reported: set[str]) -> None:
    """Report on stderr, once for each reason, that something failed without stopping the run."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if reason not in reported:
        reported.add(reason)
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may fail as well
            print(f"{problem} ({reason}); training continues", file=sys.stderr, flush=True)
