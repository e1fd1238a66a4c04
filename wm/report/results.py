"""The evaluation as typed values: which metrics there are, who was judged, who is best."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wm.report.formats import NO_DATA, data, number, value_text
from wm.report.markup import Markup, join

MODEL = "model"
STREAM = "stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """How a metric is named, written and read."""

    key: str
    title: str
    """For a person who has not read the glossary."""
    unit: str
    higher_is_better: bool
    is_share: bool

    @property
    def direction(self) -> str:
        return "higher is better" if self.higher_is_better else "lower is better"

    def text(self, value: float | None) -> str:
        return value_text(value, self.is_share)

    def shown(self, value: float | None) -> Markup:
        """The value as an element that carries the exact number."""
        return data(value, self.text(value))

    def shown_interval(self, low: float, high: float) -> Markup:
        """Both ends of an interval; the unit stands once."""
        return join(data(low, self.text(low).removesuffix("%")), NO_DATA, self.shown(high))

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b


CHANGE_ACC = Metric(
    key="change_acc", title="New actions right", unit="share right", higher_is_better=True, is_share=True
)
ACTION_ACC = Metric(
    key="action_acc", title="All actions right", unit="share right", higher_is_better=True, is_share=True
)
POS_MAE = Metric(key="pos_mae", title="Position error", unit="game units", higher_is_better=False, is_share=False)
VAL_LOSS = Metric(key="val_loss", title="Validation loss", unit="scaled units", higher_is_better=False, is_share=False)
METRICS = (CHANGE_ACC, ACTION_ACC, POS_MAE, VAL_LOSS)
HEADLINE_METRICS = (CHANGE_ACC, ACTION_ACC, POS_MAE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value and the ends of its 95% interval; None where there is no data."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        low, high = number(self.low), number(self.high)
        return None if low is None or high is None else (low, high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The metrics on one kind of frames."""

    name: str
    count: int
    metrics: dict[str, Estimate]

    def estimate(self, key: str) -> Estimate:
        return self.metrics.get(key, Estimate())


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one predictor scored."""

    predictor: str
    context: int | str | None
    metrics: dict[str, Estimate]
    slices: dict[str, list[Slice]] = field(default_factory=dict)
    confusions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Predictor and context, as a row of a table names it."""
        return self.predictor if self.context is None else f"{self.predictor}, {context_text(self.context)}"

    @property
    def is_model(self) -> bool:
        return self.predictor == MODEL

    def estimate(self, key: str) -> Estimate:
        return self.metrics.get(key, Estimate())


def context_text(context: int | str | None) -> str:
    """10 -> K = 10; a stream has no K."""
    if context is None:
        return "all"
    return f"K = {context}" if context != STREAM else "streaming"


def context_order(context: int | str | None) -> tuple[int, float]:
    """Sorts by context, streaming (the whole game so far) last."""
    finite = number(context)
    return (1, 0.0) if finite is None else (0, finite)


def read_results(evaluation: dict[str, Any]) -> list[Result]:
    """All results, models first by context, then the baselines as they come."""
    results = [_read_result(row) for row in evaluation.get("results") or []]
    models = sorted((r for r in results if r.is_model), key=lambda r: context_order(r.context))
    return models + [result for result in results if not result.is_model]


def _read_result(row: dict[str, Any]) -> Result:
    return Result(
        predictor=str(row.get("predictor", "unnamed")),
        context=row.get("context"),
        metrics=_read_metrics(row.get("metrics")),
        slices={
            str(dimension): [
                Slice(
                    name=str(name),
                    count=int(part.get("count") or 0),
                    metrics=_read_metrics(part.get("metrics")),
                )
                for name, part in (parts or {}).items()
            ]
            for dimension, parts in (row.get("slices") or {}).items()
        },
        confusions=list(row.get("confusions") or []),
    )


def _read_metrics(metrics: dict[str, Any] | None) -> dict[str, Estimate]:
    return {
        key: Estimate(value=part.get("value"), low=part.get("low"), high=part.get("high"))
        for key, part in (metrics or {}).items()
        if part is not None
    }


def best(results: Iterable[Result], metric: Metric, key: str | None = None) -> Result | None:
    """The first of those whose value is best; None if none has one."""
    leader: Result | None = None
    leading: float | None = None
    for result in results:
        value = number(result.estimate(key or metric.key).value)
        if value is not None and (leading is None or metric.better(value, leading)):
            leader, leading = result, value
    return leader


def best_baseline(results: list[Result], metric: Metric) -> Result | None:
    """The baseline that a model has to beat in this metric."""
    return best((result for result in results if not result.is_model), metric)


def headline_model(results: list[Result]) -> Result | None:
    """The model at the context that calls most new actions; the first one if none has that number."""
    models = [result for result in results if result.is_model]
    return best(models, CHANGE_ACC) or (models[0] if models else None)
