"""Where does context help? Differences between two K by action, character and time since the last hit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tune.analysis.choice import ContextChoice, ContextResult
from tune.analysis.paired import Difference, paired_differences
from tune.results.evidence import SweepEvidence
from wm.config.run_config import Context, MetricName
from wm.evaluation.game_sums import GameSums

DIMENSIONS = {"action": "action", "character": "character", "since hit": "time since the last hit"}
"""Name of a dimension in the stored sums -> in words."""


MIN_EVENTS = 30
"""Kinds of frames with fewer events (frames, for metrics that count every frame) are left out: they show nothing, and
where all of a handful are predicted alike, their variance is not known."""
MIN_GAMES = 3
"""So are kinds in fewer games: an interval over two games contains nearly everything."""
LEFT_OUT = f"fewer than {MIN_EVENTS} events or {MIN_GAMES} games"


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceReport:
    """The differences between a longer and a shorter context."""

    metric: MetricName
    """That of the main rule; `change_acc` instead of `val_loss`, which has no value for a kind of frames."""
    longer: Context
    shorter: Context
    settings: tuple[str, str]
    """Of the longer, and of the shorter."""
    differences: dict[str, dict[str, Difference]]
    """Dimension -> label -> longer minus shorter, positive where the longer is better; the most events first. Intervals
    are simultaneous within a dimension."""
    num_left_out: dict[str, int]
    """Dimension -> labels with fewer than MIN_EVENTS or MIN_GAMES."""


def compare_slices(sweep: SweepEvidence, choice: ContextChoice, num_replicates: int) -> SliceReport | None:
    """Compare the reference with the chosen K, or with the next shorter one if it was chosen itself.

    Returns:
        None if only one K was evaluated, or no evaluation has slices.
    """
    result = choice.results[0]
    rows = {row.context: row for row in result.rows}
    contexts = list(rows)
    if len(contexts) < 2:
        return None
    place = contexts.index(result.reference)
    other = contexts.index(choice.context) if choice.context in rows else place
    if other == place:
        other = place - 1 if place else 1
    longer, shorter = (rows[contexts[i]] for i in sorted((place, other), reverse=True))
    of_longer, of_shorter = _sums_by_seed(sweep, longer), _sums_by_seed(sweep, shorter)
    metric = "change_acc" if result.rule.metric == "val_loss" else result.rule.metric
    differences, num_left_out = {}, {}
    for dimension in DIMENSIONS:
        pairs = {
            label: (_slice(of_longer, dimension, label), _slice(of_shorter, dimension, label))
            for label in _labels(of_longer, dimension)
        }
        enough = {label: pair for label, pair in pairs.items() if pair[1] and _has_enough(pair[0], metric)}
        num_left_out[dimension] = len(pairs) - len(enough)
        found = paired_differences(
            enough,
            metric,
            confidence=choice.confidence,
            num_replicates=num_replicates,
        )
        if metric.endswith("_acc"):
            found = {label: with_rule_of_three(own, choice.confidence) for label, own in found.items()}
        if found:
            differences[dimension] = dict(sorted(found.items(), key=lambda item: -item[1].num_events))
    if not differences:
        return None
    return SliceReport(
        metric=metric,
        longer=longer.context,
        shorter=shorter.context,
        settings=(longer.setting, shorter.setting),
        differences=differences,
        num_left_out=num_left_out,
    )


def _sums_by_seed(sweep: SweepEvidence, row: ContextResult) -> dict[int, GameSums]:
    """The sums of the best setting at a K."""
    return {
        trial.seed: trial.sums[row.context]
        for trial in sweep.evidence
        if trial.setting == row.setting and row.context in trial.sums
    }


def with_rule_of_three(difference: Difference, confidence: float) -> Difference:
    """Where no event was predicted differently, games and seeds show no variance; a difference of up to about three in
    the number of events is still possible (Hanley and Lippman-Hand 1983).

    Args:
        difference: of accuracies.
    """
    if difference.low < difference.high:
        return difference
    most = min(1.0, -math.log(1 - confidence) / max(1, difference.num_events))
    return replace(difference, low=difference.low - most, high=difference.high + most)


def _has_enough(sums: dict[int, GameSums], metric: MetricName) -> bool:
    name = "num_changes" if metric == "change_acc" else "num_frames"
    return any(getattr(own, name).sum() >= MIN_EVENTS and len(own) >= MIN_GAMES for own in sums.values())


def _labels(sums: dict[int, GameSums], dimension: str) -> list[str]:
    return list(dict.fromkeys(label for own in sums.values() for label in own.slices.get(dimension, {})))


def _slice(sums: dict[int, GameSums], dimension: str, label: str) -> dict[int, GameSums]:
    parts = {seed: own.slices.get(dimension, {}).get(label) for seed, own in sums.items()}
    return {seed: part for seed, part in parts.items() if part is not None}
