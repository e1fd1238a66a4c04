"""The config of a sweep: a base run, axes over its fields, how they are searched, early stopping, budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from datasets.runtime.uris import mistake_in
from wm.config.run_config import ContextFrames, MetricName, NonNegativeFloat, PositiveFloat, RunConfig, Uri
from wm.evaluation.metrics import SIGN

AxisValue = int | float | bool | str
"""A value on an axis. YAML reads 1e-3 as text; it is converted to the type of its field."""
FieldSet = dict[str, AxisValue]
"""Dotted path of a field of the run -> its value: fields that only make sense together."""

SIZES: dict[str, FieldSet] = {
    "small": {"model.d_model": 128, "model.num_layers": 2},
    "medium": {"model.d_model": 256, "model.num_layers": 4},
    "large": {"model.d_model": 384, "model.num_layers": 6},
    "xl": {"model.d_model": 512, "model.num_layers": 4},
}
"""Values of the axis `size`: widths and numbers of layers of Mamba-2."""
SEED = "seed"
RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers from low to high, both included, under the names of Optuna's `suggest_float` and `suggest_int`."""

    low: int | float
    """Whole numbers if low and high both are."""
    high: int | float
    log: bool = False
    """Drawn uniformly in the logarithm."""
    step: int | float | None = None
    """Distance between two values, from low on; by default 1 for whole numbers, otherwise any value."""

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Axis = tuple[AxisValue, ...] | Range | dict[str, FieldSet]


def parse_axis(content: Any) -> Axis:
    """The values of an axis as YAML has them: a list, a range, or named sets of fields.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(content, Range):
        return content
    if isinstance(content, AxisValue):  # one value, as of `--axes.seed 0`
        content = [content]
    if isinstance(content, list | tuple):
        if wrong := [value for value in content if not isinstance(value, AxisValue)]:
            raise ValueError(f"found {wrong[0]!r}, expected numbers, text, true or false")
        return tuple(float(value) if _is_float(value) else value for value in content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"found {content!r}, expected a list of values, a range such as {{low: 1e-4, high: 1e-2, log: true}}, or "
            "named sets of fields"
        )
    if set(content) & set(RANGE_KEYS):
        return _range_of(content)
    for name, fields in content.items():
        if not isinstance(fields, Mapping) or not all(isinstance(value, AxisValue) for value in fields.values()):
            raise ValueError(f"{name}: found {fields!r}, expected fields by their dotted paths, such as {{seed: 1}}")
    return {str(name): dict(fields) for name, fields in content.items()}


def parse_callbacks(content: Any) -> dict[str, Any]:
    """Callbacks as YAML has them, a list or a mapping, as a mapping to their keyword arguments.

    Raises:
        ValueError: they are neither.
    """
    if isinstance(content, Mapping):
        return {str(path): {} if arguments is None else arguments for path, arguments in content.items()}
    if isinstance(content, list | tuple) and all(isinstance(path, str) for path in content):
        return {path: {} for path in content}
    raise ValueError(f"found {content!r}, expected a list of dotted paths, or a mapping of them to their arguments")


def _range_of(content: Mapping[str, Any]) -> Range:
    if unknown := [name for name in content if name not in RANGE_KEYS]:
        raise ValueError(f"unknown key {unknown[0]} of a range; expected {', '.join(RANGE_KEYS)}")
    if missing := [name for name in ("low", "high") if name not in content]:
        raise ValueError(f"{missing[0]} of the range is missing; expected low and high")
    numbers = {name: _number(name, value) for name, value in content.items() if name != "log" and value is not None}
    log = content.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"log: found {log!r}, expected true or false")
    result = Range(low=numbers["low"], high=numbers["high"], log=log, step=numbers.get("step"))
    if not result.low < result.high:
        raise ValueError(f"found low={result.low:g} and high={result.high:g}, expected low below high")
    if log and result.low <= 0:
        raise ValueError(f"low={result.low:g}: a logarithmic range must be positive")
    if log and result.step is not None:
        raise ValueError("log and step exclude each other; omit one")
    if result.step is not None and result.step <= 0:
        raise ValueError(f"step={result.step:g}: expected a positive number")
    return result


def _is_float(value: AxisValue) -> bool:
    """Whether a value is a number such as 1e-3, which YAML 1.1 reads as text."""
    return isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value) is not None


def _number(name: str, value: Any) -> float:
    """A finite number; YAML reads 1e-4 as text."""
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"{name}: found {value!r}, expected a finite number")
    return number


@dataclass(frozen=True, kw_only=True, slots=True)
class AshaConfig:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934), within each level of the compared axes."""

    enabled: bool = True
    """If false, every trial runs to its end."""
    time_attr: Literal["targets", "flops"] = "targets"
    """The clock of the rungs: targets seen, or FLOPs of training. Both go on where a resumed trial goes on."""
    grace: PositiveFloat = 500_000
    """The first rung, in targets or FLOPs: the next ones are at reduction_factor, its square, ... times as many."""
    rungs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """The rungs themselves, ascending, instead of grace."""
    reduction_factor: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 3.0
    """One of so many settings continues after a rung."""
    metric: MetricName = "change_acc"
    """Metric that compares settings: accuracies are maximized, pos_mae and val_loss minimized."""
    context: ContextFrames | Literal["stream"] | None = None
    """K, frames, at which settings are compared; null compares each setting at its best K."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """A setting is stopped only if it is worse than the last one that continues at this (one-sided) confidence."""

    def __post_init__(self) -> None:
        if self.rungs is not None and list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"asha.rungs={list(self.rungs)}: expected ascending numbers")

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is maximized."""
        return SIGN[self.metric] > 0

    def rungs_until(self, end: float) -> list[float]:
        """The rungs below a trial's end, in targets or FLOPs."""
        if self.rungs is not None:
            return [rung for rung in self.rungs if rung < end]
        rungs = [float(self.grace)]
        while rungs[-1] < end:
            rungs.append(rungs[-1] * self.reduction_factor)
        return rungs[:-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceConfig:
    """When a shorter context, or a smaller model, is good enough. Changes nothing about the trials."""

    metric: MetricName = "change_acc"
    """Metric that decides."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Largest acceptable loss of the metric: a difference for accuracies, a fraction of the reference's value for
    pos_mae and val_loss."""
    reference: Literal["best", "stream"] | ContextFrames = "best"
    """The K that the others are compared with."""
    also: dict[MetricName, Annotated[float, Field(gt=0, lt=1)]] = field(default_factory=dict)
    """Further metrics -> largest acceptable loss, as for threshold: all must hold."""

    def __post_init__(self) -> None:
        if self.metric in self.also:
            raise ValueError(f"choice.also.{self.metric}: set choice.threshold for choice.metric")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Many training runs that differ in a few fields and are evaluated on the same frames."""

    out: Path | Uri = Path("runs/sweep")
    """Folder of the sweep, or its s3:// or gs:// URI: its trials and results. The same command resumes it."""
    base: RunConfig = field(default_factory=RunConfig)
    """The run that the axes vary."""
    axes: dict[str, Annotated[Axis, BeforeValidator(parse_axis)]] = field(default_factory=dict)
    """Dotted path of a field of the run -> a list of values or a range; `size` -> names of sizes; any other name ->
    named sets of fields."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """grid: every combination. random and optuna (TPE; extra `optuna`) draw num_samples settings of the axes that are
    not compared."""
    num_samples: PositiveInt | None = None
    """Settings that random or optuna draws, each for every combination of the compared axes."""
    search_seed: NonNegativeInt = 0
    """Of the draws of random and optuna."""
    compare: tuple[str, ...] = ("objective.kind", "objective.context_frames", SEED)
    """Axes, or fields that they set, whose values are compared and not raced: ASHA runs within each combination of
    them, and the seeds of a setting are stopped together."""
    asha: AshaConfig = field(default_factory=AshaConfig)
    """Early stopping."""
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    """What is good enough."""
    max_hours: PositiveFloat | None = None
    """Budget: hours that the sweep runs, over all its commands."""
    max_usd: PositiveFloat | None = None
    """Budget: price of the devices while trials hold them, over all commands; needs usd_per_hour."""
    usd_per_hour: NonNegativeFloat | None = None
    """Price of one GPU for an hour, or of one CPU trial without GPUs. Only for max_usd and for what is displayed."""
    max_flops: PositiveFloat | None = None
    """Budget: FLOPs of training of all trials together."""
    callbacks: Annotated[dict[str, dict[str, Any]], BeforeValidator(parse_callbacks)] = field(default_factory=dict)
    """Callbacks of Ray Tune, such as ray.air.integrations.wandb.WandbLoggerCallback: a list of dotted paths, or a
    mapping that gives each its keyword arguments."""
    max_concurrent: PositiveInt = 2
    """Trials that run concurrently; on CPUs they share the cores."""
    cpus_per_trial: PositiveFloat = 1.0
    """Logical CPUs that Ray reserves for a trial."""
    gpus_per_trial: NonNegativeFloat = 0.0
    """GPUs of a trial; with a fraction such as 0.5 two trials share a GPU, and with 2 or more a trial has as many
    workers, under Ray Train."""

    def __post_init__(self) -> None:
        if self.base.use_gpu != (self.gpus_per_trial > 0):
            raise ValueError(
                f"base.use_gpu is {self.base.use_gpu} and gpus_per_trial={self.gpus_per_trial}: "
                "set both to train on GPUs, or neither"
            )
        if self.gpus_per_trial > 1 and not self.gpus_per_trial.is_integer():
            raise ValueError(f"gpus_per_trial={self.gpus_per_trial}: expected whole GPUs, or a part of one")
        if self.base.use_gpu and self.base.num_workers != 1 and self.base.max_workers != self.gpus_per_trial:
            raise ValueError(
                f"base.num_workers={self.base.num_workers} and gpus_per_trial={self.gpus_per_trial}: each worker takes "
                "one GPU; omit base.num_workers"
            )
        if self.base.max_seconds is not None:
            raise ValueError("base.max_seconds: trials are compared at equal targets seen; set optimizer.total_targets")
        if mistake := mistake_in(self.out):
            raise ValueError(f"out: {mistake}")
        if self.base.out != RunConfig().out:
            raise ValueError("base.out: trials are written below the sweep's folder; set out instead")
        if self.max_usd is not None and not self.usd_per_hour:
            raise ValueError(f"max_usd={self.max_usd:g}: set usd_per_hour, the price of a device for an hour")
        self._check_search()

    def _check_search(self) -> None:
        """A range needs draws, draws need a number, and what is compared must have a list of values."""
        ranges = [path for path, axis in self.axes.items() if isinstance(axis, Range)]
        if self.search == "grid":
            if ranges:
                raise ValueError(
                    f"axes.{ranges[0]}: search: grid cannot try every value of a range; set search: random or "
                    "optuna and num_samples, or list values"
                )
            if self.num_samples is not None:
                raise ValueError(f"num_samples={self.num_samples}: search: grid tries every combination; omit it")
        elif self.num_samples is None:
            raise ValueError(f"num_samples: search: {self.search} needs the number of settings to draw")
        if compared := [path for path in ranges if path in self.compare]:
            raise ValueError(f"axes.{compared[0]}: found a range, but a compared axis needs a list of values")
