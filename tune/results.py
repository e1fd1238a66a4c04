"""A sweep's folder: whose it is, how far each trial is, and one result row for each (trial, judged K, targets seen).

sweep.json      what makes the sweep this sweep, and its trials with what they cost
trials/NAME/    a run's folder (see `wm.runs.run`); its log.jsonl holds the truth of the rows
                stopped.json: ASHA ended it; failed.json: it cannot go on; train.log: what it printed
results.jsonl   all trials' rows, gathered from the logs
ray/            Ray Tune's own notes, not read again
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError
from tune.config import AxisValue, SweepConfig
from tune.cost import Cost
from tune.trials import Trial
from wm.checkpoints.locations import RUN_SUBFOLDER
from wm.checkpoints.reader import open_store
from wm.config.run_config import identity
from wm.config.typed_yaml import to_plain
from wm.runs.run_log import read_log

FORMAT_VERSION = 1
"""1: first."""
SWEEP_FILE = "sweep.json"
RESULTS_FILE = "results.jsonl"
STOPPED_FILE = "stopped.json"
FAILED_FILE = "failed.json"

State = Literal["waiting", "begun", "finished", "stopped", "failed"]
DONE: tuple[State, ...] = ("finished", "stopped", "failed")
"""States of a trial that is not run again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """One trial judged at one K after some targets."""

    trial: str
    """Name of the trial."""
    state: State
    """How far the trial is now."""
    axes: dict[str, AxisValue]
    """Where the trial stands on each axis."""
    context: int
    """Judged K, frames."""
    targets_seen: int
    """Targets trained on."""
    seconds: float
    """Of training up to here, without validation, on the machine it ran on beside the trials it shared it with."""
    num_parameters: int
    """Of the network."""
    train_flops: float
    """Matrix multiplications of training up to here, FLOPs."""
    window_flops: float
    """Matrix multiplications of predicting one frame from its last K, FLOPs."""
    num_judged: int
    """Judged frames."""
    change_acc: float | None
    """Share of the actions that begin in a judged frame and were foretold."""
    action_acc: float | None
    """Share of all actions foretold."""
    pos_mae: float | None
    """Mean |error| of x and y, game units."""
    val_loss: float | None
    """Weighted sum of losses, scaled units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepNotes:
    """What sweep.json says."""

    out: Path
    tolerance: float
    """Of the choice of K."""
    trials: dict[str, dict[str, Any]]
    """Name -> axes and cost."""

    def folder(self, trial: str) -> Path:
        """A trial's folder."""
        return self.out / "trials" / trial


def check_folder(sweep: SweepConfig) -> None:
    """Find that the sweep's folder is new, or holds this sweep.

    Raises:
        UserError: the folder holds something else, or a sweep with other options.
    """
    if (sweep.out / SWEEP_FILE).exists():
        there, mine = _read_mark(sweep.out)["identity"], _identity(sweep)
        if there != mine:
            differing = next(name for name in mine if there.get(name) != mine[name])
            raise UserError(
                f"{sweep.out} holds a sweep with other options (under {differing}); "
                "use those to resume it, or another --out"
            )
    elif sweep.out.exists() and (not sweep.out.is_dir() or any(sweep.out.iterdir())):
        raise UserError(f"{sweep.out} exists and is no sweep; name an empty or new folder with --out")


def write_notes(sweep: SweepConfig, trials: Sequence[Trial], costs: Sequence[Cost]) -> SweepNotes:
    """Make a checked folder this sweep's."""
    sweep.out.mkdir(parents=True, exist_ok=True)
    content = {
        "format_version": FORMAT_VERSION,
        "identity": _identity(sweep),
        "tolerance": sweep.tolerance,
        "trials": {trial.name: {"axes": trial.axes} | asdict(cost) for trial, cost in zip(trials, costs, strict=True)},
    }
    write_json_atomically(sweep.out / SWEEP_FILE, content)
    return open_sweep(sweep.out)


def _identity(sweep: SweepConfig) -> dict[str, Any]:
    """What makes two sweeps the same sweep, as JSON data."""
    return {
        "base": identity(sweep.base),
        "axes": {path: list(values) for path, values in sweep.axes.items()},
        "asha": to_plain(sweep.asha),
    }


def open_sweep(out: Path) -> SweepNotes:
    """Read a sweep's notes.

    Raises:
        UserError: the folder is no sweep, or its notes are damaged or of another version.
    """
    if not (out / SWEEP_FILE).exists():
        raise UserError(f"{out} is no sweep ({SWEEP_FILE} is missing); name the folder that `wm sweep` wrote")
    content = _read_mark(out)
    return SweepNotes(out=out, tolerance=content["tolerance"], trials=content["trials"])


def _read_mark(out: Path) -> dict[str, Any]:
    mark = out / SWEEP_FILE
    try:
        content = json.loads(mark.read_text())
        version = content["format_version"]
        if version == FORMAT_VERSION:
            _ = content["identity"], content["tolerance"], content["trials"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{mark} is damaged ({type(error).__name__}); run the sweep into another folder") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{mark} has version {version}, this version reads {FORMAT_VERSION}; use the version that made it"
        )
    return content


def state_of(folder: Path) -> State:
    """How far a trial is, from what lies in its folder."""
    meta = open_store(folder / RUN_SUBFOLDER).newest_meta()
    if meta is not None and meta["finished"]:
        return "finished"
    if (folder / FAILED_FILE).exists():
        return "failed"
    if (folder / STOPPED_FILE).exists():
        return "stopped"
    return "begun" if folder.exists() else "waiting"


def mark_stopped(folder: Path, targets_seen: int) -> None:
    """Remember that ASHA ended a trial, so that no later command runs it to its end."""
    write_json_atomically(folder / STOPPED_FILE, {"targets_seen": targets_seen})


def mark_failed(folder: Path, reason: str) -> None:
    """Remember that a trial ends in a failure however often it is run."""
    write_json_atomically(folder / FAILED_FILE, {"reason": reason})


def rows_of(notes: SweepNotes, trial: str) -> list[ResultRow]:
    """A trial's rows, by targets seen and K."""
    facts = notes.trials[trial]
    folder = notes.folder(trial)
    state = state_of(folder)
    judged = {(row["targets_seen"], row["context"]): row for row in read_log(folder) if row["kind"] == "eval"}
    return [
        ResultRow(
            trial=trial,
            state=state,
            axes=facts["axes"],
            context=context,
            targets_seen=targets_seen,
            seconds=row["seconds"],
            num_parameters=facts["num_parameters"],
            train_flops=facts["train_flops_per_target"] * targets_seen,
            window_flops=facts["window_flops"][str(context)],
            num_judged=row["num_targets"],
            **{name: row[name] for name in ("change_acc", "action_acc", "pos_mae", "val_loss")},
        )
        for (targets_seen, context), row in sorted(judged.items())
    ]


def gather(notes: SweepNotes) -> list[ResultRow]:
    """Every trial's rows, written to results.jsonl as well."""
    rows = [row for trial in notes.trials for row in rows_of(notes, trial)]
    path = notes.out / RESULTS_FILE
    aside = path.with_suffix(".aside")
    aside.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    aside.replace(path)
    return rows
