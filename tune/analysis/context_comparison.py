"""Every context length K by one rule: its loss to the reference, with simultaneous intervals, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datasets.runtime.errors import UserError
from tune.analysis.best_comparison import held_out_score, loss_intervals, score_half_widths
from tune.analysis.evidence import TrialEvidence
from tune.analysis.pairwise import Pairwise, compare_pairs
from tune.analysis.scores import Cell, CommonGames, Scores, scores_of
from wm.config.run_config import MetricName
from wm.evaluation.metrics import SIGN, Context, context_order, context_text

Status = Literal["reference", "non-inferior", "worse", "not decided"]
"""Of a K by one rule: its interval lies under the threshold, over it, or contains it. The reference is the named K, or
the one with the best value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How much worse than the reference a K may be by one metric."""

    metric: MetricName = "change_acc"
    threshold: float = 0.05
    """Largest loss, in units of the metric, or as a fraction of the reference's value if `relative`."""
    relative: bool = False

    def __post_init__(self) -> None:
        largest = 1.0 if self.relative and SIGN[self.metric] > 0 else np.inf
        if not 0 < self.threshold < largest:
            limit = "between 0 and 1" if largest == 1 else "a positive number"
            raise UserError(f"threshold of {self.metric}: {self.threshold}; it must be {limit}")

    @property
    def text(self) -> str:
        """`change_acc at most 0.05 worse`, or `pos_mae at most 3 % worse`."""
        amount = f"{100 * self.threshold:g} %" if self.relative else f"{self.threshold:g}"
        return f"{self.metric} at most {amount} worse"


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextResult:
    """One K by one rule."""

    context: Context
    setting: str
    """Best setting at this K, by its mean over the seeds."""
    value: float
    """Of the metric, at the best setting, without the optimism of having chosen it on the same games and seeds."""
    low: float
    high: float
    """Interval of the value of the best setting at this K alone."""
    loss: float
    """Reference minus K, so that worse is positive for every metric; in units of the metric, or a fraction of the
    reference's value if the rule is relative."""
    loss_low: float
    loss_high: float
    """Simultaneous interval over all K, settings and, where none is named, references."""
    num_judged: int
    """Evaluation frames."""
    num_events: int
    """Action changes among their (frame, player) pairs."""
    num_games: int
    num_seeds: int
    """Of the setting at this K."""
    beyond_training: bool
    """K is longer than any context that training has shown this setting's network."""
    status: Status


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """All K by one rule."""

    rule: Rule
    reference: Context
    """The named one, or the K with the best value."""
    rows: tuple[ContextResult, ...]
    """By K, `stream` last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What is known of a K's loss by a rule."""

    non_inferior: bool
    """It lies under the threshold."""
    worse: bool
    """It lies over the threshold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All K by one rule, and what is needed to foresee the effect of more evidence."""

    result: RuleResult
    is_named: bool
    """The reference was named."""
    left_out: tuple[Cell, ...]
    """Cells that have no seed in common with others."""
    bounds: dict[Context, Bounds]
    pairs: Pairwise
    cells: tuple[Cell, ...]
    confidence: float

    def bounds_with(self, *, games: float = 1.0, seeds: float = 1.0) -> dict[Context, Bounds]:
        """The bounds to be expected of so many times the games and seeds, if the estimates stayed as they are."""
        named = self.result.reference if self.is_named else None
        more = self.pairs.scaled(games=games, seeds=seeds)
        intervals = loss_intervals(more, self.cells, named, self.confidence)
        return {k: _bounds(self.result.rule, *interval) for k, interval in intervals.items()}


def compare_by_rule(
    evidence: Sequence[TrialEvidence],
    games: CommonGames,
    rule: Rule,
    reference: Context | None,
    *,
    confidence: float,
    num_replicates: int,
    random_seed: int,
) -> Comparison:
    """Compare all K by one rule, paired by game and seed.

    Args:
        reference: a K; None: the best.
    Raises:
        UserError: as `scores_of`; the reference shares no seed with other K.
    """
    scores, left_out = _with_common_seeds(scores_of(evidence, games, rule.metric, relative=rule.relative))
    if reference is not None and reference not in [k for _, k in scores.cells]:
        raise UserError(
            f"the reference {context_text(reference)} shares no seed with other K; train equal seeds of all K"
        )
    pairs = compare_pairs(scores, num_replicates=num_replicates, random_seed=random_seed)
    intervals = loss_intervals(pairs, scores.cells, reference, confidence)
    rows_of = {k: np.flatnonzero([other == k for _, other in scores.cells]) for k in intervals}
    held_out = {k: held_out_score(scores, rows, random_seed) for k, rows in rows_of.items()}
    best = max(held_out, key=lambda k: held_out[k]) if reference is None else reference
    half_widths = score_half_widths(scores, confidence)
    means = np.nanmean(scores.values, 1)
    results, bounds = [], {}
    for k in sorted(intervals, key=context_order):
        cell = int(rows_of[k][means[rows_of[k]].argmax()])
        facts = _facts(evidence, games, scores.cells[cell])
        loss = held_out[best] - held_out[k]
        low, high = min(loss, intervals[k][0]), max(loss, intervals[k][1])
        bounds[k] = _bounds(rule, low, high)
        value_low, value_high = sorted(
            _metric_value(rule, held_out[k] + side * half_widths[cell]) for side in (-1.0, 1.0)
        )
        results.append(
            ContextResult(
                context=k,
                setting=scores.cells[cell][0],
                value=_metric_value(rule, held_out[k]),
                low=value_low,
                high=value_high,
                loss=_metric_loss(rule, loss),
                loss_low=_metric_loss(rule, low),
                loss_high=_metric_loss(rule, high),
                num_judged=facts.num_judged,
                num_events=facts.num_events,
                num_games=len(games.game_ids),
                num_seeds=facts.num_seeds,
                beyond_training=facts.beyond_training,
                status="reference" if k == best else _status(bounds[k]),
            )
        )
    return Comparison(
        result=RuleResult(rule=rule, reference=best, rows=tuple(results)),
        is_named=reference is not None,
        left_out=left_out,
        bounds=bounds,
        pairs=pairs,
        cells=scores.cells,
        confidence=confidence,
    )


def _with_common_seeds(scores: Scores) -> tuple[Scores, tuple[Cell, ...]]:
    """The cells that pairwise have seeds in common, and those that had to be left out for that."""
    kept = list(range(len(scores.cells)))
    present = scores.present.astype(int)
    while (lacking := (present[kept] @ present[kept].T == 0).sum(1)).any():
        kept.pop(int(lacking.argmax()))
    left_out = tuple(cell for row, cell in enumerate(scores.cells) if row not in kept)
    part = Scores(
        cells=tuple(scores.cells[row] for row in kept), values=scores.values[kept], influence=scores.influence[kept]
    )
    return part, left_out


def _bounds(rule: Rule, low: float, high: float) -> Bounds:
    """From an interval of the loss in units of the score."""
    return Bounds(
        non_inferior=_metric_loss(rule, high) < rule.threshold, worse=_metric_loss(rule, low) > rule.threshold
    )


def _status(bounds: Bounds) -> Status:
    return "non-inferior" if bounds.non_inferior else "worse" if bounds.worse else "not decided"


def _metric_value(rule: Rule, score: float) -> float:
    """The metric of a score, which is a logarithm for relative rules and of changed sign where lower is better."""
    signed = SIGN[rule.metric] * score
    return float(np.exp(signed)) if rule.relative else signed


def _metric_loss(rule: Rule, difference: float) -> float:
    """The loss of a difference of scores, reference minus K."""
    if not rule.relative:
        return difference
    return float(-np.expm1(-difference) if SIGN[rule.metric] > 0 else np.expm1(difference))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """Of a cell."""

    num_judged: int
    num_events: int
    num_seeds: int
    beyond_training: bool


def _facts(evidence: Sequence[TrialEvidence], games: CommonGames, cell: Cell) -> _Facts:
    setting, context = cell
    trials = [trial for trial in evidence if trial.setting == setting and context in trial.sums]
    sums = trials[0].sums[context]
    rows = games.rows_of(sums)
    return _Facts(
        num_judged=int(sums.num_frames[rows].sum()),
        num_events=int(sums.num_changes[rows].sum()),
        num_seeds=len({trial.seed for trial in trials}),
        beyond_training=context == "stream" or context > max(trial.trained_context for trial in trials),
    )
