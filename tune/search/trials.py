"""Expands the axes of a sweep into trials. Plain functions: no Ray, no files."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets.runtime.errors import UserError
from datasets.runtime.uris import child_location
from tune.config import SEED, AxisValue, SweepConfig
from tune.search.axes import (
    check_axes,
    compared_axes,
    fields_of,
    get_field,
    is_field,
    set_field,
    unused_axes,
    values_of,
)
from tune.search.suggest import random_setting, searched_axes
from wm.config import run_paths
from wm.config.run_config import RunConfig
from wm.config.run_identity import identity, short_hash
from wm.config.typed_yaml import from_plain, to_plain

TRIALS_FOLDER = "trials"
"""In the sweep's folder."""
Values = Mapping[str, AxisValue]
"""Axis -> value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Name of its folder: readable, ending in a hash of the config."""
    axes: dict[str, AxisValue]
    """Its value on each axis that applies to it."""
    config: RunConfig
    """The run."""


def with_absolute_paths(sweep: SweepConfig) -> SweepConfig:
    """The sweep with absolute paths, because trials run in another working directory."""
    base = replace(run_paths.with_absolute_paths(sweep.base), out=sweep.base.out)  # each trial has an `out` of its own
    out = sweep.out.expanduser().resolve() if isinstance(sweep.out, Path) else sweep.out
    return replace(sweep, out=out, base=base)


def trials_of(sweep: SweepConfig) -> list[Trial]:
    """The trials that are known before any has run, without duplicates: all of them, but for `search: optuna`, which
    suggests the settings one by one (`tune.search.suggest`); there the first setting of every level.

    grid: every combination, in the order of the axes, but the seed varies fastest. random: the drawn settings, each for
    every combination of the compared axes. A combination omits the axes that do not apply to it (`unused_axes`):
    crossing the objectives with K trains the sequence model once.

    Raises:
        UserError: an axis is not a field of a run, a value is invalid, or ASHA cannot compare a trial.
    """
    check_axes(sweep, to_plain(sweep.base))
    if sweep.search == "grid":
        combinations = combinations_of(sweep, list(sweep.axes))
    elif not searched_axes(sweep):
        raise UserError(f"search: {sweep.search} has nothing to draw, because every axis is compared; omit search")
    else:
        num_settings = sweep.num_samples or 1 if sweep.search == "random" else 1
        levels = combinations_of(sweep, compared_axes(sweep))
        combinations = [random_setting(sweep, i) | level for i in range(num_settings) for level in levels]
    trials = distinct_trials(sweep, combinations)
    check_rungs(sweep, trials)
    return trials


def distinct_trials(sweep: SweepConfig, combinations: Sequence[Values]) -> list[Trial]:
    """The trials of some combinations of values, without duplicates."""
    by_name: dict[str, Trial] = {}
    for values in combinations:
        trial = trial_of(sweep, values)
        by_name.setdefault(trial.name, trial)
    return list(by_name.values())


def trial_of(sweep: SweepConfig, values: Values) -> Trial:
    """The trial with some values on the axes; a value on an axis that does not apply to it is ignored.

    Raises:
        UserError: a value or a combination is invalid.
    """
    values = {name: values[name] for name in sweep.axes if name in values}  # one order, and so one name
    source = f"axes ({', '.join(f'{name}={value}' for name, value in values.items())})" if values else "base"
    base = to_plain(sweep.base)
    unused = unused_axes(sweep.axes, _with_values(sweep, base, values))
    used = {name: value for name, value in values.items() if name not in unused}
    plain = _with_values(sweep, base, used)
    if plain["objective"]["kind"] == "window":
        # A window model is evaluated at the K it is trained at; an MLP accepts no other.
        own = [plain["objective"]["context_frames"]]
        plain["eval"] |= {"contexts": own, "validation_contexts": None, "best_context": None}
    config = from_plain(plain, RunConfig, source)
    if config.objective.kind == "sequence" and config.eval.validation_contexts is None:
        # ASHA and the table of a running sweep may compare trials at any K.
        config = replace(config, eval=replace(config.eval, validation_contexts=config.contexts))
    typed = to_plain(config)
    axes = {name: get_field(typed, name) if is_field(sweep.axes, name) else value for name, value in used.items()}
    name = _name(axes, short_hash(identity(config)))
    place = config.checkpoint.storage_path
    checkpoint = replace(config.checkpoint, storage_path=place and child_location(place, name))
    return Trial(
        name=name, axes=axes, config=replace(config, out=trial_location(sweep.out, name), checkpoint=checkpoint)
    )


def trial_location(sweep: Path | str, name: str) -> Path | str:
    """Folder or URI of a trial, below that of its sweep."""
    below = f"{TRIALS_FOLDER}/{name}"
    return sweep / below if isinstance(sweep, Path) else child_location(sweep, below)


def axes_text(axes: Values) -> str:
    """A trial's values on the axes as text."""
    parts = [value if isinstance(value, str) else f"{path.split('.')[-1]}={value:g}" for path, value in axes.items()]
    return ", ".join(parts) or "base"


def check_rungs(sweep: SweepConfig, trials: Sequence[Trial]) -> None:
    """Check that ASHA can compare the trials; rungs in FLOPs are checked where the costs are known.

    Raises:
        UserError: a trial is not evaluated at `asha.context`, or the first rung is before the first validation or after
            the end of every trial.
    """
    if not sweep.asha.enabled:
        return
    context = sweep.asha.context
    for trial in trials if context is not None else ():
        # A trial of the objective `window` has one K; it races with trials of the same K, unless K is not compared.
        if context not in trial.config.validation_contexts and trial.config.objective.kind != "window":
            raise UserError(
                f"asha.context={context}: trial {trial.name} is evaluated at "
                f"K = {', '.join(map(str, trial.config.validation_contexts))}; "
                "name a K at which every trial is evaluated, or omit asha.context"
            )
    if sweep.asha.time_attr == "targets":
        every = sweep.base.eval.every_targets
        check_first_rung(sweep, every, max(trial.config.optimizer.total_targets for trial in trials), "targets")


def check_first_rung(sweep: SweepConfig, first_validation: float, end: float, unit: str) -> None:
    """Check that the first rung lies between the first validation and the end of the longest trial.

    Raises:
        UserError: it does not: it would have no effect, or none at its time.
    """
    name = "asha.grace" if sweep.asha.rungs is None else "asha.rungs"
    first = sweep.asha.grace if sweep.asha.rungs is None else sweep.asha.rungs[0]
    if not first_validation <= first < end:
        raise UserError(
            f"{name}={first:g}: expected {first_validation:g} {unit} (base.eval.every_targets) to less than {end:g} "
            f"{unit} (optimizer.total_targets)"
        )


def combinations_of(sweep: SweepConfig, names: Sequence[str]) -> list[dict[str, AxisValue]]:
    """Every combination of some axes, in their order; seeds last, so that those of a setting run together."""
    ordered = sorted(names, key=lambda name: name == SEED)
    values = itertools.product(*(values_of(sweep.axes, name) for name in ordered))
    return [dict(zip(ordered, combination, strict=True)) for combination in values]


def _with_values(sweep: SweepConfig, base: dict[str, Any], values: Values) -> dict[str, Any]:
    """The base run as plain data, with some values on the axes."""
    plain = copy.deepcopy(base)
    for name, value in values.items():
        for path, field_value in fields_of(sweep.axes, name, value).items():
            set_field(plain, path, field_value)
    return plain


def _name(axes: dict[str, AxisValue], digest: str) -> str:
    parts = [v if isinstance(v, str) else f"{path.split('.')[-1]}{v:.6g}" for path, v in axes.items()]
    return re.sub(r"[^\w.+-]", "-", "_".join([*parts, digest]))
