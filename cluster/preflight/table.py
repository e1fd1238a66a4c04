"""The table that `wm preflight` prints, and its JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.files.checks import Check, worst

STATES = ("green", "amber", "red")
NAME_WIDTH, NODE_WIDTH = 22, 24


def line_of(check: Check) -> str:
    """One check; if it is not green, what was expected and what to do are on a second line."""
    line = f"{check.state:<5}  {check.name:<{NAME_WIDTH}}  {check.node:<{NODE_WIDTH}}  {check.found}"
    if check.state == "green":
        return line
    expected = f"expected {check.expected}; " if check.expected else ""
    return f"{line}\n       {'':<{NAME_WIDTH}}  {expected}{check.advice}"


def summary_of(checks: Sequence[Check]) -> str:
    """How many checks are green, amber and red, and whether the job may be submitted."""
    counts = Counter(check.state for check in checks)
    numbers = ", ".join(f"{counts[state]} {state}" for state in STATES)
    verdict = {"green": "ready", "amber": "ready, but look at what is amber", "red": "not ready"}[worst(checks)]
    return f"{numbers}: {verdict}"


def as_plain(checks: Sequence[Check]) -> dict[str, Any]:
    """All checks as JSON data, the worst state first."""
    return {"state": worst(checks), "checks": [check.as_json() for check in checks]}
