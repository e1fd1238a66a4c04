"""Where does context help? Differences between two K by action, character and time since the last hit."""

from __future__ import annotations

from dataclasses import dataclass

from tune.analysis.choice import ContextChoice, ContextResult
from tune.analysis.paired import Difference, paired_differences
from tune.results.evidence import SweepEvidence
from wm.config.run_config import Context, MetricName
from wm.evaluation.game_sums import GameSums

DIMENSIONS = {"action": "action", "character": "character", "since hit": "time since the last hit"}
"""Name of a dimension in the stored sums -> in words."""


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
    differences = {}
    for dimension in DIMENSIONS:
        pairs = {
            label: (_slice(of_longer, dimension, label), _slice(of_shorter, dimension, label))
            for label in _labels(of_longer, dimension)
        }
        found = paired_differences(
            {label: pair for label, pair in pairs.items() if pair[0] and pair[1]},
            metric,
            confidence=choice.confidence,
            num_replicates=num_replicates,
        )
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
    )


def _sums_by_seed(sweep: SweepEvidence, row: ContextResult) -> dict[int, GameSums]:
    """The sums of the best setting at a K."""
    return {
        trial.seed: trial.sums[row.context]
        for trial in sweep.evidence
        if trial.setting == row.setting and row.context in trial.sums
    }


def _labels(sums: dict[int, GameSums], dimension: str) -> list[str]:
    return list(dict.fromkeys(label for own in sums.values() for label in own.slices.get(dimension, {})))


def _slice(sums: dict[int, GameSums], dimension: str, label: str) -> dict[int, GameSums]:
    parts = {seed: own.slices.get(dimension, {}).get(label) for seed, own in sums.items()}
    return {seed: part for seed, part in parts.items() if part is not None}
