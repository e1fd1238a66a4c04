"""Which context length K is enough? Paired non-inferiority of each K to a reference, and a verdict in three values.

The loss of a K is how much worse its best setting is than that of the reference, in units of the metric. A K is
non-inferior where the upper bound of its loss lies under a threshold, by all rules; the choice is the smallest such K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from datasets.runtime.errors import UserError
from tune.analysis.context_comparison import (
    Bounds,
    Comparison,
    ContextResult,
    Rule,
    RuleResult,
    Status,
    compare_by_rule,
)
from tune.analysis.evidence import TrialEvidence
from tune.analysis.learning_curves import LearningCurve, more_targets
from tune.analysis.scores import CommonGames, common_games, named_sums
from wm.evaluation.metrics import SIGN, Context, context_order, context_text

__all__ = [
    "ContextChoice",
    "ContextResult",
    "MoreEvidence",
    "Rule",
    "RuleResult",
    "Status",
    "Verdict",
    "choose_context",
]

Verdict = Literal["enough", "needed", "undecided"]
"""K = n is enough: its loss is under the threshold. K = n is needed: every shorter K loses more than the threshold.
Undecided: the intervals contain the threshold for a K that matters."""
CONFIDENCE = 0.95
"""Of the two-sided intervals: a K that loses more than the threshold is called non-inferior in at most 2.5 % of sweeps,
as usual for non-inferiority (ICH E9, 1998)."""
MAX_MORE = 100
"""More than so many times the present evidence is not proposed."""
FEW_GAMES = 20
"""With fewer, the intervals are rough."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoreEvidence:
    """How much more would decide if the estimates stayed as they are; None: not alone, or it is unknown."""

    games: int | None
    """Further evaluation games, each with as many frames as those of now."""
    seeds: int | None
    """Further seeds of each setting."""
    targets: int | None = None
    """Further training targets, extrapolated from the losses of the validations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextChoice:
    """The verdict on K with its evidence."""

    verdict: Verdict
    context: Context
    """The chosen K; if undecided, the smallest that is known to be non-inferior, which may be the reference itself."""
    setting: str
    """Best setting at this K by the first rule."""
    reason: str
    """One sentence."""
    remarks: tuple[str, ...]
    """What weakens the verdict, one sentence each."""
    results: tuple[RuleResult, ...]
    """By rule; the first is the main one."""
    more: MoreEvidence | None
    """None if decided."""
    num_games: int
    """Games that every compared trial was evaluated on."""
    num_games_left_out: int
    """Games that some trial lacks."""
    num_seeds: int
    """Different seeds of all trials."""
    confidence: float


def choose_context(
    evidence: Sequence[TrialEvidence],
    rules: Sequence[Rule] = (Rule(),),
    *,
    reference: Context | None = None,
    curves: Mapping[Context, LearningCurve] | None = None,
    confidence: float = CONFIDENCE,
    num_replicates: int = 2_000,
    random_seed: int = 0,
) -> ContextChoice:
    """The smallest K that is not worse than the reference by more than the thresholds of all rules.

    Args:
        evidence: trials that trained to their end. Settings, contexts and seeds need not be complete.
        reference: compare with this K; None: with the best.
        curves: of the first rule's metric at the best setting of each K, to estimate how much more training would
            decide.
        num_replicates: of the bootstrap.
    Raises:
        UserError: nothing to compare, trials evaluated on different frames, a metric that is not reported, a reference
            that was not evaluated.
    """
    games = _check(evidence, reference)
    compared = [
        compare_by_rule(
            evidence,
            games,
            rule,
            reference,
            confidence=confidence,
            num_replicates=num_replicates,
            random_seed=random_seed,
        )
        for rule in rules
    ]
    main = compared[0].result
    verdict, context = decide([comparison.bounds for comparison in compared], main.reference)
    predicts_nothing = not _is_sensitive(main)
    if predicts_nothing:
        verdict = "undecided"
    num_seeds = len({trial.seed for trial in evidence})
    remarks = list(_remarks(evidence, games, compared, verdict, context))
    if predicts_nothing:
        remarks.insert(
            0,
            f"{main.rule.metric} of {context_text(main.reference)} may be as low as the threshold: a network that "
            "predicts nothing would pass too; train on more targets, or lower the threshold",
        )
    undecided = verdict == "undecided" and not predicts_nothing and len(main.rows) > 1
    return ContextChoice(
        verdict=verdict,
        context=context,
        setting=next(row.setting for row in main.rows if row.context == context),
        reason=_reason([comparison.result for comparison in compared], verdict, context, confidence),
        remarks=tuple(remarks),
        results=tuple(comparison.result for comparison in compared),
        more=_more(compared, len(games.game_ids), num_seeds, curves or {}) if undecided else None,
        num_games=len(games.game_ids),
        num_games_left_out=games.num_left_out,
        num_seeds=num_seeds,
        confidence=confidence,
    )


def _is_sensitive(result: RuleResult) -> bool:
    """Whether a K could fail: an accuracy of 0 must lose more than the threshold (assay sensitivity, ICH E10, 2000)."""
    if result.rule.relative or SIGN[result.rule.metric] < 0:
        return True
    return next(row.low for row in result.rows if row.context == result.reference) > result.rule.threshold


def decide(bounds: Sequence[Mapping[Context, Bounds]], reference: Context) -> tuple[Verdict, Context]:
    """The verdict and the K that it is about.

    Args:
        bounds: K -> bounds, by rule. A K is non-inferior if it is by all rules, and worse if it is by one of them.
        reference: of the first rule.
    """
    contexts = sorted(set.intersection(*(set(by_rule) for by_rule in bounds)), key=context_order)
    non_inferior = [k for k in contexts if all(by_rule[k].non_inferior for by_rule in bounds)]
    if not non_inferior or len(contexts) == 1:
        return "undecided", reference
    smallest = non_inferior[0]
    shorter = contexts[: contexts.index(smallest)]
    if shorter and all(any(by_rule[k].worse for by_rule in bounds) for k in shorter):
        return "needed", smallest
    return ("undecided" if shorter and non_inferior == [reference] else "enough"), smallest


def _check(evidence: Sequence[TrialEvidence], reference: Context | None) -> CommonGames:
    if not evidence:
        raise UserError("no trial has trained to its end; run the same `wm sweep` to resume")
    contexts = sorted({k for trial in evidence for k in trial.sums}, key=context_order)
    if reference is not None and reference not in contexts:
        raise UserError(
            f"the reference {context_text(reference)} was not evaluated; choose one of "
            f"{', '.join(map(context_text, contexts))}"
        )
    return common_games(named_sums(evidence))


def _more(
    compared: Sequence[Comparison], num_games: int, num_seeds: int, curves: Mapping[Context, LearningCurve]
) -> MoreEvidence:
    """The least multiple of the games alone, and of the seeds alone, that would decide."""

    def decided(games: float, seeds: float) -> bool:
        bounds = [comparison.bounds_with(games=games, seeds=seeds) for comparison in compared]
        return decide(bounds, compared[0].result.reference)[0] != "undecided"

    def least(count: int, *, of_games: bool) -> int | None:
        low, high = count, count * MAX_MORE
        if not decided(*((MAX_MORE, 1.0) if of_games else (1.0, MAX_MORE))):
            return None
        while high - low > max(1, low // 20):
            middle = (low + high) // 2
            factor = middle / count
            low, high = (low, middle) if decided(*((factor, 1.0) if of_games else (1.0, factor))) else (middle, high)
        return high - count

    return MoreEvidence(
        games=least(num_games, of_games=True),
        seeds=least(num_seeds, of_games=False) if num_seeds > 1 else None,
        targets=more_targets(compared[0].result, curves),
    )


def _reason(results: Sequence[RuleResult], verdict: Verdict, context: Context, confidence: float) -> str:
    """One sentence, about the rule that is the reason."""
    main, name, certainty = results[0], context_text(context), f"with {100 * confidence:g} % confidence"
    if verdict == "needed":
        shorter = [row.context for row in main.rows if context_order(row.context) < context_order(context)][-1]
        result, row = _first(results, lambda row: row.context == shorter and row.status == "worse")
        return (
            f"{name} is needed: every shorter K loses too much, {context_text(shorter)} {_amount(result, row.loss)} of "
            f"{result.rule.metric} (at least {_amount(result, row.loss_low)} {certainty}); {_limit(result)}."
        )
    if verdict == "enough":
        result, row = _first(results, lambda row: row.context == context)
        against = "" if context == main.reference else f" to {context_text(main.reference)}"
        return (
            f"{name} is enough: it loses {_amount(main, max(0.0, row.loss))} of {main.rule.metric}{against} (at most "
            f"{_amount(main, row.loss_high)} {certainty}); {_limit(main)}."
        )
    result, row = _first(results, lambda row: row.status == "not decided")
    examples = "; ".join(
        f"{context_text(row.context)} loses {_amount(result, row.loss_low)} to {_amount(result, row.loss_high)}"
        for row in [row for row in result.rows if row.status == "not decided"][:3] or [row]
    )
    return f"Not decided: {examples} of {result.rule.metric} {certainty}; {_limit(result)}."


def _first(
    results: Sequence[RuleResult], condition: Callable[[ContextResult], bool]
) -> tuple[RuleResult, ContextResult]:
    """The first row that meets a condition; if none does, the reference's of the main rule."""
    found = [(result, row) for result in results for row in result.rows if condition(row)]
    references = [(results[0], row) for row in results[0].rows if row.context == results[0].reference]
    return (found or references)[0]


def _limit(result: RuleResult) -> str:
    return f"the threshold is {_amount(result, result.rule.threshold)}"


def _amount(result: RuleResult, loss: float) -> str:
    return f"{100 * loss:.1f} %" if result.rule.relative else f"{loss:.3f}"


def _remarks(
    evidence: Sequence[TrialEvidence],
    games: CommonGames,
    compared: Sequence[Comparison],
    verdict: Verdict,
    context: Context,
) -> Iterator[str]:
    main = compared[0].result
    if len(main.rows) == 1:
        yield "only one K was evaluated: there is nothing to compare"
    if len({trial.seed for trial in evidence}) == 1:
        yield "one seed: the variation between trainings is unknown; the intervals hold over games alone"
    elif len({row.num_seeds for row in main.rows}) > 1:
        yield "not every K has all seeds: pairs of K are compared on the seeds that both have"
    if games.num_left_out:
        yield f"{games.num_left_out} games are left out, because not every trial was evaluated on them"
    if len(games.game_ids) < FEW_GAMES:
        yield f"{len(games.game_ids)} games are few: the intervals are rough"
    for setting, k in compared[0].left_out:
        yield f"{setting} at {context_text(k)} is left out: it shares no seed with others"
    shorter = [row.context for row in main.rows if context_order(row.context) < context_order(context)]
    not_excluded = [k for k in shorter if not any(c.bounds[k].worse for c in compared)]
    if verdict == "enough" and not_excluded:
        yield f"{_list(not_excluded)} may be enough too: the evidence does not exclude it"
    beyond = [row.context for row in main.rows if row.beyond_training]
    if beyond:
        yield f"{_list(beyond)}: longer than any context that training has shown the network"
    longest = main.rows[-1].context
    if len(main.rows) > 1 and main.reference == longest != "stream" and verdict != "enough":
        yield f"{context_text(longest)} is the longest that was compared: a longer one may be better"


def _list(contexts: Sequence[Context]) -> str:
    return ", ".join(map(context_text, contexts))
