"""The JSON data of `wm eval`: which metrics there are, what each predictor scores, which is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wm.evaluation.metrics import context_order
from wm.report.charts import Axis, Estimate
from wm.report.numbers import Kind, finite


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricInfo:
    """How a metric is named and read."""

    key: str
    """A MetricName, or a key of the coherence."""
    title: str
    """For a reader who does not know the key."""
    unit: str
    kind: Kind
    sign: int
    """+1 if higher values are better, otherwise -1."""
    meaning: str = ""
    """Completes the sentence that begins with the value."""

    @property
    def direction(self) -> str:
        return "higher is better" if self.sign > 0 else "lower is better"

    @property
    def axis(self) -> Axis:
        return Axis(title=f"{self.key}, {self.unit}", kind=self.kind)

    def is_better(self, a: float, b: float) -> bool:
        """Whether a is better than b."""
        return self.sign * a > self.sign * b


CHANGE_ACC = MetricInfo(
    key="change_acc",
    sign=1,
    title="New actions predicted",
    unit="share correct",
    kind="share",
    meaning="of the moments when a player's action changes, the model predicts the new action",
)
ACTION_ACC = MetricInfo(
    key="action_acc",
    sign=1,
    title="All actions predicted",
    unit="share correct",
    kind="share",
    meaning="of all frames, the model predicts the action; most frames continue the previous one, so this is easy",
)
POS_MAE = MetricInfo(
    key="pos_mae",
    sign=-1,
    title="Position error",
    unit="game units",
    kind="amount",
    meaning="game units per frame and axis, on average; the stage Final Destination is 171 units wide",
)
VAL_LOSS = MetricInfo(key="val_loss", title="Validation loss", unit="weighted sum", kind="amount", sign=-1)
HEADLINE_METRICS = (CHANGE_ACC, ACTION_ACC, POS_MAE)
METRICS = (*HEADLINE_METRICS, VAL_LOSS)
COHERENCE = MetricInfo(key="coherence", title="Position error of dreams", unit="game units", kind="amount", sign=-1)
DREAM_ACTIONS = MetricInfo(key="dream_action_acc", title="Actions right in dreams", unit="share", kind="share", sign=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The metrics of one predictor on all frames, or on one kind of frames."""

    name: str
    """Of the predictor or of the kind."""
    count: int
    """Pairs of frame and player; 0 if it is not known."""
    metrics: dict[str, Estimate]

    def estimate(self, key: str) -> Estimate:
        """The metric; an empty estimate if there is none."""
        return self.metrics.get(key, Estimate())


@dataclass(frozen=True, kw_only=True, slots=True)
class Result(Scores):
    """One predictor's evaluation."""

    context: int | str | None
    """Frames, or `stream`; None for a baseline."""
    slices: dict[str, list[Scores]]
    """Dimension -> kinds of frames, the most frequent first."""
    confusions: list[dict[str, Any]]
    """As `wm eval` writes them."""

    @property
    def is_model(self) -> bool:
        return self.name == "model"


def read_results(evaluation: Mapping[str, Any]) -> list[Result]:
    """All results: the model's by context, then the baselines in their order."""
    results = [
        Result(
            name=str(row.get("predictor")),
            count=0,
            metrics=_metrics(row),
            context=row.get("context"),
            slices={dimension: _slices(parts or {}) for dimension, parts in (row.get("slices") or {}).items()},
            confusions=row.get("confusions") or [],
        )
        for row in evaluation.get("results") or []
    ]
    return sorted(results, key=lambda r: (not r.is_model, context_order(r.context) if r.is_model else ()))


def best(results: Iterable[Result], metric: MetricInfo, key: str | None = None) -> Result | None:
    """The first result whose value is best; None if none has a value."""
    leader: tuple[float, Result] | None = None
    for result in results:
        value = result.estimate(key or metric.key).value
        if value is not None and (leader is None or metric.is_better(value, leader[0])):
            leader = value, result
    return leader[1] if leader else None


def best_baseline(results: Iterable[Result], metric: MetricInfo) -> Result | None:
    """The baseline that a model has to beat in this metric."""
    return best((result for result in results if not result.is_model), metric)


def headline_model(results: Iterable[Result]) -> Result | None:
    """The model at the context with the best change_acc; the first one if none has a value."""
    models = [result for result in results if result.is_model]
    return best(models, CHANGE_ACC) or (models[0] if models else None)


def _slices(parts: dict[str, dict[str, Any]]) -> list[Scores]:
    slices = [Scores(name=name, count=part.get("count") or 0, metrics=_metrics(part)) for name, part in parts.items()]
    return sorted(slices, key=lambda part: (-part.count, part.name))


def _metrics(row: Mapping[str, Any]) -> dict[str, Estimate]:
    """Metrics by key; values that are not finite count as missing."""
    return {
        key: Estimate(**{end: finite(part.get(end)) for end in ("value", "low", "high")})
        for key, part in (row.get("metrics") or {}).items()
        if part is not None
    }
