"""Expands the axes of a sweep into trials. Plain functions: no Ray, no files."""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets.runtime.errors import UserError
from tune.config import SIZES, AxisValue, SweepConfig
from wm.config import run_paths
from wm.config.run_config import RunConfig
from wm.config.run_identity import identity, short_hash
from wm.config.typed_yaml import from_plain, renamed_path, to_plain

SIZE = "size"
SIZE_FIELDS = ("model.d_model", "model.num_layers")
VARIABLE = ("model", "objective", "optimizer", "seed", "precision")
"""Fields that an axis may vary: the others change the evaluation, or only where a run executes."""
SEED = "seed"


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
    return replace(sweep, out=sweep.out.expanduser().resolve(), base=base)


def trials_of(sweep: SweepConfig) -> list[Trial]:
    """Every combination of the axes, in their order, without duplicates.

    A combination omits the axes that do not apply to it (`unused_axes`): crossing the objectives with K trains the
    sequence model once.

    Raises:
        UserError: an axis is not a field of a run, a value is invalid, or ASHA cannot compare a trial.
    """
    base = to_plain(sweep.base)
    for path, values in sweep.axes.items():
        _check_axis(path, values, sweep, base)
    by_name: dict[str, Trial] = {}
    for values in itertools.product(*sweep.axes.values()):
        trial = _trial(sweep, base, dict(zip(sweep.axes, values, strict=True)))
        by_name.setdefault(trial.name, trial)
    trials = list(by_name.values())
    context = sweep.asha.context
    for trial in trials:
        if sweep.asha.enabled and context is not None and context not in trial.config.validation_contexts:
            raise UserError(
                f"asha.context={context}: trial {trial.name} is evaluated at "
                f"K = {_listed(trial.config.validation_contexts)}; "
                "name a K at which every trial is evaluated, or omit asha.context"
            )
    return trials


def axes_text(axes: Mapping[str, AxisValue]) -> str:
    """A trial's values on the axes as text."""
    parts = [str(v) if isinstance(v, str) else f"{path.split('.')[-1]}={v}" for path, v in axes.items()]
    return ", ".join(parts) or "base"


def unused_axes(run: dict[str, Any]) -> Iterator[str]:
    """Axes that do not apply to a run: the sizes of the other network, the length of the other objective."""
    if run["model"]["kind"] == "mlp":
        yield SIZE
        yield from (f"model.{name}" for name in run["model"] if name not in ("kind", "hidden_sizes"))
    if run["objective"]["kind"] == "window":
        yield "objective.sequence_frames"
    else:
        yield "objective.context_frames"


def _trial(sweep: SweepConfig, base: dict[str, Any], chosen: dict[str, AxisValue]) -> Trial:
    source = f"axes ({', '.join(f'{path}={value}' for path, value in chosen.items())})" if chosen else "base"
    kinds = copy.deepcopy(base)
    for path, value in chosen.items():
        _set(kinds, path, value)
    unused = set(unused_axes(kinds))
    plain = copy.deepcopy(base)
    used = {path: value for path, value in chosen.items() if path not in unused}
    for path, value in used.items():
        _set(plain, path, value)
    config = from_plain(plain, RunConfig, source)
    if config.objective.kind == "window":
        # A window model is evaluated at the K it is trained at; an MLP accepts no other.
        own = (config.objective.context_frames,)
        config = replace(config, eval=replace(config.eval, contexts=own, validation_contexts=None, best_context=None))
    elif config.eval.validation_contexts is None:
        # ASHA and the table of a running sweep may compare trials at any K.
        config = replace(config, eval=replace(config.eval, validation_contexts=config.contexts))
    typed = to_plain(config)
    axes = {path: value if path == SIZE else _get(typed, path) for path, value in used.items()}
    name = _name(axes, short_hash(identity(config)))
    return Trial(name=name, axes=axes, config=replace(config, out=sweep.out / "trials" / name))


def _check_axis(path: str, values: tuple[AxisValue, ...], sweep: SweepConfig, base: dict[str, Any]) -> None:
    if not values:
        raise UserError(f"axes.{path}: found no values, expected one or more")
    if path == SIZE:
        conflicts = [name for name in SIZE_FIELDS if name in sweep.axes]
        if conflicts:
            raise UserError(f"axes.{conflicts[0]}: the axis size sets it too; use one of the two")
        invalid = [value for value in values if value not in SIZES]
        if invalid:
            raise UserError(f"axes.size: found {invalid[0]!r}, expected {_listed(SIZES)}")
        return
    if renamed := renamed_path(path, RunConfig):
        raise UserError(f"axes.{path} was renamed; use axes.{renamed}")
    fields = [*_leaves(base), SIZE]
    if path not in fields:
        near = difflib.get_close_matches(path, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "expected a dotted path such as optimizer.learning_rate, or size"
        raise UserError(f"axes.{path}: a run has no such field; {hint}")
    if path.partition(".")[0] not in VARIABLE or path == "optimizer.total_targets":
        raise UserError(
            f"axes.{path}: trials must be evaluated on the same frames after equally many targets; "
            f"expected a field of {_listed(VARIABLE)}, other than optimizer.total_targets"
        )


def _leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _set(plain: dict[str, Any], path: str, value: AxisValue) -> None:
    if path == SIZE:
        plain["model"] |= SIZES[str(value)]
        return
    *parents, leaf = path.split(".")
    for parent in parents:
        plain = plain[parent]
    plain[leaf] = value


def _get(plain: dict[str, Any], path: str) -> AxisValue:
    value: Any = plain
    for part in path.split("."):
        value = value[part]
    return value


def _name(axes: dict[str, AxisValue], digest: str) -> str:
    parts = [str(v) if isinstance(v, str) else f"{path.split('.')[-1]}{v}" for path, v in axes.items()]
    return re.sub(r"[^\w.+-]", "-", "_".join([*parts, digest]))


def _listed(values: Any) -> str:
    return ", ".join(str(value) for value in values)
