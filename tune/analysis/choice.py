"""Which context length K is enough? Paired non-inferiority of each K to a reference, and a verdict in three values.

The loss of a K is how much worse its best setting is than that of the reference, in units of the metric. A K is
non-inferior where the upper bound of its loss lies under a threshold, by all rules; the choice is the smallest such K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tune.analysis.evidence import TrialEvidence
from wm.config.run_config import MetricName
from wm.evaluation.metrics import Context

Verdict = Literal["enough", "needed", "undecided"]
"""K = n is enough: its loss is under the threshold. K = n is needed: every shorter K loses more than the threshold.
Undecided: the intervals contain the threshold for a K that matters."""
Status = Literal["reference", "non-inferior", "worse", "not decided"]
"""Of a K by one rule: its interval lies under the threshold, over it, or contains it. The reference is the named K, or
the one with the best value."""
CONFIDENCE = 0.95
"""Of the two-sided intervals: a K that loses more than the threshold is called non-inferior in at most 2.5 % of sweeps,
as usual for non-inferiority (ICH E9, 1998)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How much worse than the reference a K may be by one metric."""

    metric: MetricName = "change_acc"
    threshold: float = 0.05
    """Largest loss, in units of the metric, or as a fraction of the reference's value if `relative`."""
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold < float("inf"):
            raise UserError(f"threshold of {self.metric}: {self.threshold}; it must be a positive number")

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
    confidence: float = CONFIDENCE,
    num_replicates: int = 2_000,
    random_seed: int = 0,
) -> ContextChoice:
    """The smallest K that is not worse than the reference by more than the thresholds of all rules.

    Args:
        evidence: trials that trained to their end. Settings, contexts and seeds need not be complete.
        reference: compare with this K; None: with the best.
        num_replicates: of the bootstrap.
    Raises:
        UserError: nothing to compare, trials evaluated on different frames, a metric that is not reported, a reference
            that was not evaluated.
    """
    games = _check(evidence, reference)
    compared = [
        compare_by_rule(evidence, games, rule, reference, confidence, num_replicates, random_seed) for rule in rules
    ]
    results = tuple(RuleResult(rule=c.rule, reference=c.reference, rows=c.rows) for c in compared)
    decision = decide([c.bounds for c in compared], compared[0].reference)
    main = {row.context: row for row in results[0].rows}
    blind = rules[0].metric == "change_acc" and max(row.value for row in main.values()) < MIN_CHANGE_ACC
    if blind:
        decision = ("undecided", decision[1])
    verdict, context = decision
    num_seeds = len({trial.seed for trial in evidence})
    remarks = list(_remarks(evidence, games, results, decision, num_seeds))
    if blind:
        remarks.insert(0, "no trial predicts the actions that begin: train on more targets before choosing")
    return ContextChoice(
        verdict=verdict,
        context=context,
        setting=main[context].setting,
        reason=_reason(results, decision),
        remarks=tuple(remarks),
        results=results,
        more=None if verdict != "undecided" or blind else _more(compared, len(games.game_ids), num_seeds),
        num_games=len(games.game_ids),
        num_games_left_out=games.num_left_out,
        num_seeds=num_seeds,
        confidence=confidence,
    )
