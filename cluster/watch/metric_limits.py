"""Thresholds on the metrics of a run's validations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cluster.card.limits import KillRule


def broken_rule(rules: Sequence[KillRule], evaluations: Sequence[dict[str, Any]]) -> str | None:
    """Why a run must end; None if it need not.

    A rule judges the first evaluation at its context from its targets on. A metric that is missing breaks no rule; one
    that is not finite does.

    Args:
        evaluations: rows `eval` of the run's log.
    """
    for rule in rules:
        at_context: Iterator[dict[str, Any]] = (row for row in evaluations if row.get("context") == rule.context)
        first: dict[str, Any] = next((row for row in at_context if row.get("targets_seen", 0) >= rule.at_targets), {})
        value = first.get(str(rule.metric))
        if value is None:
            continue
        is_low = rule.below is not None and not value >= rule.below
        is_high = rule.above is not None and not value <= rule.above
        if is_low or is_high:
            limit = f"below {rule.below:g}" if is_low else f"above {rule.above:g}"
            shown = f"{value:.4g}" if math.isfinite(value) else "not finite"
            at = f"{first['targets_seen']:,} targets (K = {rule.context})"
            return f"{rule.metric} is {shown} at {at}: {limit}, its limit at {rule.at_targets:,} targets"
    return None
