"""A sweep's folder: its manifest, the state of each trial, and one row for each (trial, evaluated K, targets seen).

sweep.json      the manifest: the options that identify the sweep, and its trials with their cost
trials/NAME/    a run's folder (see `wm.runs.run`); the rows are read from its log.jsonl
                stopped.json: ASHA stopped it; failed.json: it cannot resume; train.log: its output
results.jsonl   the rows of all trials
ray/            Ray Tune's experiment state, which is never read
stop            exists while the command stops its trials
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
from tune.search.cost import Cost
from tune.search.trials import Trial
from wm.checkpoints.reader import open_store
from wm.checkpoints.store import RUN_SUBFOLDER
from wm.config.run_identity import identity
from wm.config.typed_yaml import to_plain
from wm.evaluation.metrics import METRICS
from wm.runs.run_log import read_log

FORMAT_VERSION = 1
"""1: first."""
SWEEP_FILE = "sweep.json"
RESULTS_FILE = "results.jsonl"
STOPPED_FILE = "stopped.json"
FAILED_FILE = "failed.json"

State = Literal["pending", "unfinished", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
"""States of a trial that does not run again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """The evaluation of one trial at one K, after some targets."""

    trial: str
    """Name of the trial."""
    state: State
    """The trial's current state."""
    axes: dict[str, AxisValue]
    """The trial's value on each axis."""
    context: int
    """Evaluated K, frames."""
    targets_seen: int
    """Targets trained on."""
    seconds: float
    """Training time so far, without validation, on a machine that other trials may have shared."""
    num_parameters: int
    """Of the network."""
    train_flops: float
    """Matrix multiplications of training so far, FLOPs."""
    window_flops: float
    """Matrix multiplications of predicting one frame from its last K, FLOPs."""
    num_judged: int
    """Evaluated frames."""
    change_acc: float | None
    """Fraction of the actions starting in an evaluated frame that were predicted."""
    action_acc: float | None
    """Fraction of all actions that were predicted."""
    pos_mae: float | None
    """Mean |error| of x and y, game units."""
    val_loss: float | None
    """Weighted sum of losses, scaled units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepManifest:
    """The content of sweep.json."""

    out: Path
    tolerance: float
    """Of the choice of K: largest acceptable loss of change_acc."""
    trials: dict[str, dict[str, Any]]
    """Name -> axes and cost."""

    def folder(self, trial: str) -> Path:
        """A trial's folder."""
        return self.out / "trials" / trial


def check_folder(sweep: SweepConfig) -> None:
    """Check that the sweep's folder is new, or belongs to this sweep.

    Raises:
        UserError: the folder contains something else, or a sweep with other options.
    """
    if (sweep.out / SWEEP_FILE).exists():
        stored, ours = _read_manifest(sweep.out)["identity"], _identity(sweep)
        if stored != ours:
            differing = next(name for name in ours if stored.get(name) != ours[name])
            raise UserError(
                f"{sweep.out} contains a sweep with other options (under {differing}); "
                "use the same options to resume it, or another --out"
            )
    elif sweep.out.exists() and (not sweep.out.is_dir() or any(sweep.out.iterdir())):
        raise UserError(f"{sweep.out} exists and is not a sweep; name an empty or new folder with --out")


def write_manifest(sweep: SweepConfig, trials: Sequence[Trial], costs: Sequence[Cost]) -> SweepManifest:
    """Write the manifest into a checked folder."""
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
    """The options that identify a sweep, as JSON data."""
    return {
        "base": identity(sweep.base),
        "axes": {path: list(values) for path, values in sweep.axes.items()},
        "asha": to_plain(sweep.asha),
    }


def open_sweep(out: Path) -> SweepManifest:
    """Read the manifest of a sweep.

    Raises:
        UserError: the folder is not a sweep, or its manifest is damaged or of another version.
    """
    if not (out / SWEEP_FILE).exists():
        raise UserError(f"{out} is not a sweep ({SWEEP_FILE} is missing); name the folder that `wm sweep` wrote")
    content = _read_manifest(out)
    return SweepManifest(out=out, tolerance=content["tolerance"], trials=content["trials"])


def _read_manifest(out: Path) -> dict[str, Any]:
    path = out / SWEEP_FILE
    try:
        content = json.loads(path.read_text())
        version = content["format_version"]
        if version == FORMAT_VERSION:
            _ = content["identity"], content["tolerance"], content["trials"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); run the sweep into another folder") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {version}, expected {FORMAT_VERSION}; use the version of this project that wrote it"
        )
    return content


def state_of(folder: Path) -> State:
    """The state of a trial, from the files in its folder."""
    return _state(folder, open_store(folder / RUN_SUBFOLDER).newest_meta())


def _state(folder: Path, meta: dict[str, Any] | None) -> State:
    """
    Args:
        meta: of the trial's newest checkpoint.
    """
    if meta is not None and meta["finished"]:
        return "finished"
    if (folder / FAILED_FILE).exists():
        return "failed"
    if (folder / STOPPED_FILE).exists():
        return "stopped"
    return "unfinished" if folder.exists() else "pending"


def mark_stopped(folder: Path, targets_seen: int) -> None:
    """Record that ASHA stopped a trial, so that no later command resumes it."""
    write_json_atomically(folder / STOPPED_FILE, {"targets_seen": targets_seen})


def mark_failed(folder: Path, reason: str) -> None:
    """Record that a trial fails every time it runs."""
    write_json_atomically(folder / FAILED_FILE, {"reason": reason})


def rows_of(manifest: SweepManifest, trial: str) -> list[ResultRow]:
    """A trial's rows, by targets seen and K."""
    facts = manifest.trials[trial]
    folder = manifest.folder(trial)
    meta = open_store(folder / RUN_SUBFOLDER).newest_meta()
    state = _state(folder, meta)
    rows = [row for row in read_log(folder) if row["kind"] == "eval"]
    if meta is not None and state == "finished":
        rows += meta["metrics"]  # also if the disk was full when they were to be logged
    evaluations = {(row["targets_seen"], row["context"]): row for row in rows}
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
            **{name: row[name] for name in METRICS},
        )
        for (targets_seen, context), row in sorted(evaluations.items())
    ]


def collect_results(manifest: SweepManifest) -> list[ResultRow]:
    """The rows of all trials; writes them to results.jsonl too."""
    rows = [row for trial in manifest.trials for row in rows_of(manifest, trial)]
    path = manifest.out / RESULTS_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    temporary.replace(path)
    return rows
