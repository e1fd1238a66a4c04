"""A sweep's axes -> its trials. Plain functions: no Ray, nothing on disk."""

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
from wm.config.run_config import RunConfig, identity, short_hash
from wm.config.typed_yaml import from_plain, renamed_path, to_plain

SIZE = "size"
SIZE_FIELDS = ("model.d_model", "model.num_layers")
VARIABLE = ("model", "objective", "optimizer", "seed", "precision")
"""Fields below which an axis may lie: the others change what a run is judged on, or only where it runs."""
SEED = "seed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a sweep."""

    name: str
    """Its folder: readable, and ends in a hash of the config that matters."""
    axes: dict[str, AxisValue]
    """Where it stands on each axis that has a meaning for it."""
    config: RunConfig
    """The run."""


def with_absolute_paths(sweep: SweepConfig) -> SweepConfig:
    """The sweep with paths that hold in trials, which change directory."""
    base, separate = sweep.base, sweep.base.eval_corpus
    return replace(
        sweep,
        out=sweep.out.expanduser().resolve(),
        base=replace(
            base,
            train_corpus=base.train_corpus.expanduser().resolve(),
            eval_corpus=None if separate is None else separate.expanduser().resolve(),
        ),
    )


def trials_of(sweep: SweepConfig) -> list[Trial]:
    """Every combination of the axes, in their order, each run once.

    A combination leaves out the axes without a meaning for it (`unused_axes`), so that crossing the objectives with
    K trains the sequence model once.

    Raises:
        UserError: an axis that is no field of a run, a value that does not fit, or a trial that ASHA cannot compare.
    """
    base = to_plain(sweep.base)
    for path, values in sweep.axes.items():
        _check_axis(path, values, sweep, base)
    found: dict[str, Trial] = {}
    for values in itertools.product(*sweep.axes.values()):
        trial = _trial(sweep, base, dict(zip(sweep.axes, values, strict=True)))
        found.setdefault(trial.name, trial)
    trials = list(found.values())
    context = sweep.asha.context
    for trial in trials:
        if sweep.asha.enabled and context is not None and context not in trial.config.contexts:
            raise UserError(
                f"asha.context={context}: trial {trial.name} is judged at K = {_listed(trial.config.contexts)}; "
                "name a K that every trial is judged at, or leave asha.context out"
            )
    return trials


def place_text(axes: Mapping[str, AxisValue]) -> str:
    """A place on the axes, for people."""
    parts = [str(v) if isinstance(v, str) else f"{path.split('.')[-1]}={v}" for path, v in axes.items()]
    return ", ".join(parts) or "base"


def unused_axes(run: dict[str, Any]) -> Iterator[str]:
    """Axes without a meaning for a run: the sizes of the other network, the length of the other objective."""
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
        # K is what is trained here: judged at the K it was trained at, as an MLP must be.
        config = replace(config, eval=replace(config.eval, contexts=(config.objective.context_frames,)))
    typed = to_plain(config)
    axes = {path: value if path == SIZE else _get(typed, path) for path, value in used.items()}
    name = _name(axes, short_hash(identity(config)))
    return Trial(name=name, axes=axes, config=replace(config, out=sweep.out / "trials" / name))


def _check_axis(path: str, values: tuple[AxisValue, ...], sweep: SweepConfig, base: dict[str, Any]) -> None:
    if not values:
        raise UserError(f"axes.{path}: found no value, expected one or more")
    if path == SIZE:
        twice = [name for name in SIZE_FIELDS if name in sweep.axes]
        if twice:
            raise UserError(f"axes.{twice[0]}: the axis size sets it too; use one of the two")
        wrong = [value for value in values if value not in SIZES]
        if wrong:
            raise UserError(f"axes.size: found {wrong[0]!r}, expected {_listed(SIZES)}")
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
            f"axes.{path}: trials must be judged on the same frames after equal targets; "
            f"an axis lies in {_listed(VARIABLE)}, and is not optimizer.total_targets"
        )


def _leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _set(plain: dict[str, Any], path: str, value: AxisValue) -> None:
    if path == SIZE:
        size = SIZES[str(value)]
        plain["model"] |= {"d_model": size.d_model, "num_layers": size.num_layers}
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
