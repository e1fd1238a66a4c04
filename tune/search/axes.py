"""What the axes of a sweep set in a run, and which of them apply to it. Plain functions: no Ray, no files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from datasets.runtime.errors import UserError
from tune.config import SEED, SIZES, Axis, AxisValue, FieldSet, Range, SweepConfig
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import renamed_path

SIZE = "size"
TOTAL_TARGETS = "optimizer.total_targets"
VARIABLE = ("model", "objective", "optimizer", "seed", "precision")
"""Fields that an axis may vary: the others change the evaluation, or only where a run executes."""


def values_of(axes: Mapping[str, Axis], name: str) -> tuple[AxisValue, ...]:
    """The values of an axis that has a list of them: numbers, text, or the names of sets of fields."""
    axis = axes[name]
    assert not isinstance(axis, Range)
    return tuple(axis)


def fields_of(axes: Mapping[str, Axis], name: str, value: AxisValue) -> FieldSet:
    """The fields that a value on an axis sets."""
    axis = axes[name]
    if isinstance(axis, dict):
        return axis[str(value)]
    return SIZES[str(value)] if name == SIZE else {name: value}


def all_fields(axes: Mapping[str, Axis], name: str) -> set[str]:
    """Every field that some value on an axis sets."""
    axis = axes[name]
    if isinstance(axis, dict):
        return {path for fields in axis.values() for path in fields}
    return set(SIZES["small"]) if name == SIZE else {name}


def is_field(axes: Mapping[str, Axis], name: str) -> bool:
    """Whether an axis is one field of the run, whose values are that field's."""
    return name != SIZE and not isinstance(axes[name], dict)


def compared_axes(sweep: SweepConfig) -> list[str]:
    """The axes whose values are compared and not raced: named in `compare`, or setting a field that is."""
    return [name for name in sweep.axes if {name, *all_fields(sweep.axes, name)} & set(sweep.compare)]


def level_of(sweep: SweepConfig, axes: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """A trial's values on the compared axes but the seed. Trials of one level race with each other."""
    return {name: axes[name] for name in compared_axes(sweep) if name in axes and name != SEED}


def setting_of(sweep: SweepConfig, axes: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """A trial's values on the axes that race. Trials of one level and setting differ in their seeds alone."""
    compared = compared_axes(sweep)
    return {name: value for name, value in axes.items() if name not in compared}


def unused_axes(axes: Mapping[str, Axis], run: dict[str, Any]) -> set[str]:
    """The axes that do not apply to a run: all fields that they set are without meaning for it."""
    unused = set(_unused_fields(run))
    return {name for name in axes if all_fields(axes, name) and all_fields(axes, name) <= unused}


def set_field(plain: dict[str, Any], path: str, value: AxisValue) -> None:
    """Set a field of a run, as plain data, by its dotted path."""
    *parents, leaf = path.split(".")
    for parent in parents:
        plain = plain[parent]
    plain[leaf] = value


def get_field(plain: dict[str, Any], path: str) -> AxisValue:
    """A field of a run, as plain data, by its dotted path."""
    value: Any = plain
    for part in path.split("."):
        value = value[part]
    return value


def check_axes(sweep: SweepConfig, base: dict[str, Any]) -> None:
    """Check that every axis has values, and sets fields that may vary and that no other axis sets.

    Args:
        base: the base run as plain data.
    Raises:
        UserError: it does not, or `compare` names nothing that varies.
    """
    if not sweep.axes:
        raise UserError("axes: found none, expected at least one, such as seed: [0, 1, 2]")
    owners: dict[str, str] = {}
    for name, axis in sweep.axes.items():
        _check_values(name, axis)
        for path in all_fields(sweep.axes, name):
            is_group = not is_field(sweep.axes, name)
            _check_field(f"axes.{name}" + (f": {path}" if is_group else ""), path, sweep, base, is_group=is_group)
            if path in owners:
                raise UserError(f"axes.{name}: the axis {owners[path]} sets {path} too; use one of the two")
            owners[path] = name
    known = {*sweep.axes, *owners, *SweepConfig().compare}
    if unknown := [name for name in sweep.compare if name not in known]:
        raise UserError(f"compare: found {unknown[0]}, expected axes of this sweep ({', '.join(sweep.axes)})")
    if TOTAL_TARGETS in owners and sweep.asha.enabled and owners[TOTAL_TARGETS] not in compared_axes(sweep):
        raise UserError(
            f"axes.{owners[TOTAL_TARGETS]}: runs of different lengths cannot race, their learning rates differ at "
            f"equal targets; add {owners[TOTAL_TARGETS]} to compare, or set asha.enabled: false"
        )


def _check_values(name: str, axis: Axis) -> None:
    if not isinstance(axis, Range) and not axis:
        raise UserError(f"axes.{name}: found no values, expected one or more")
    if name == SIZE and not isinstance(axis, dict):
        if isinstance(axis, Range):
            raise UserError(f"axes.size: found a range, expected a list of {', '.join(SIZES)}")
        if invalid := [value for value in axis if value not in SIZES]:
            raise UserError(f"axes.size: found {invalid[0]!r}, expected {', '.join(SIZES)}")


def _check_field(where: str, path: str, sweep: SweepConfig, base: dict[str, Any], *, is_group: bool) -> None:
    if renamed := renamed_path(path, RunConfig):
        raise UserError(f"{where} was renamed; use {renamed if is_group else f'axes.{renamed}'}")
    fields = [*_leaves(base), SIZE]
    if path not in fields:
        near = difflib.get_close_matches(path, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "expected a dotted path such as optimizer.learning_rate, or size"
        raise UserError(f"{where}: a run has no such field; {hint}")
    if path.partition(".")[0] not in VARIABLE:
        raise UserError(
            f"{where}: trials must be evaluated on the same frames; expected a field of {', '.join(VARIABLE)}"
        )


def _unused_fields(run: dict[str, Any]) -> Iterator[str]:
    """Fields without meaning for a run: the sizes of the other network, the length of the other objective."""
    if run["model"]["kind"] == "mlp":
        yield from (f"model.{name}" for name in run["model"] if name not in ("kind", "hidden_sizes"))
    if run["objective"]["kind"] == "window":
        yield "objective.sequence_frames"
    else:
        yield "objective.context_frames"


def _leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
