"""What a run's page shows of the night: what happened when, costs beside the plan, the run before. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from wm.report.charts import Estimate
from wm.report.results import MetricInfo

Tone = Literal["good", "bad", "unclear"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Something that happened."""

    at: datetime
    """With its zone."""
    kind: str
    """In one or two words."""
    text: str
    tone: Tone = "unclear"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """A figure of the plan beside what came, both as text."""

    name: str
    planned: str
    actual: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedMetric:
    """One metric of this run and of the run before, on the same frames."""

    metric: MetricInfo
    context_text: str
    mine: Estimate
    before: Estimate
    difference: Estimate
    """With the sign that makes positive better."""
    tone: Tone
    """good: this run is better, and the interval excludes 0."""

    @property
    def verdict(self) -> str:
        """In words and with a sign, so that color is not needed."""
        return {"good": "✓ better", "bad": "✗ worse", "unclear": "≈ no clear difference"}[self.tone]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A run beside another one, paired by game."""

    before: str
    """Name of the other run."""
    what: str
    """Which evaluations are compared, in words."""
    num_games: int
    rows: tuple[ComparedMetric, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Morning:
    """The part of a run's page that is about the night."""

    status: str
    """How the run ended, or that it has not, in one sentence."""
    tone: Tone
    why: str | None
    """The note on the run card."""
    next_step: str
    moments: tuple[Moment, ...]
    num_moments_left_out: int
    plan: tuple[PlanRow, ...]
    plan_note: str
    comparison: Comparison | None
    comparison_note: str
    """Why there is no comparison, or what it leaves open."""
