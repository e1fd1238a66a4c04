"""A sweep's folder: its manifest, the state of each trial, and one row for each (trial, evaluated K, targets seen).

sweep.json      the manifest: the options that identify the sweep, and its trials with their configs and cost
trials/NAME/    a run's folder (see `wm.runs.run`); the rows are read from its log.jsonl
                rungs.jsonl: what ASHA decided; failed.json: why it failed; train.log: its output
results.jsonl   the rows of all trials
ray/            Ray Tune's experiment state, which is never read
sweep.lock      lock of the driver
stop            whether the sweep is asked to stop, see `wm.runs.stop_request`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from datasets.runtime.durable_files import replace_file, write_json_atomically
from datasets.runtime.errors import UserError
from datasets.runtime.file_lock import exclusive_lock
from tune.config import AxisValue, ChoiceConfig, SweepConfig
from tune.results.trial_status import State, TrialStatus, status_at, status_of
from tune.search.cost import Cost
from tune.search.trials import Trial
from wm.config.run_config import Context, RunConfig
from wm.config.run_identity import identity, to_stored
from wm.config.typed_yaml import from_stored, to_plain
from wm.evaluation.metrics import METRICS, context_order
from wm.runs.run import RUN_FILE, Run
from wm.runs.run_log import read_log
from wm.runs.stop_request import STOP_FILE

FORMAT_VERSION = 2
"""1: first. 2: the config of each trial, from which its checkpoints are found and its state follows."""
SWEEP_FILE = "sweep.json"
SWEEP_LOCK = "sweep.lock"
TRIALS_FOLDER = "trials"
RESULTS_FILE = "results.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultRow:
    """The evaluation of one trial at one K, after some targets."""

    trial: str
    """Name of the trial."""
    state: State
    """The trial's current state."""
    axes: dict[str, AxisValue]
    """The trial's value on each axis."""
    context: Context
    """Evaluated K, frames, or `stream`."""
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
    choice: ChoiceConfig
    """When a shorter K is good enough."""
    trials: dict[str, dict[str, Any]]
    """Name -> axes, config and cost."""

    def folder(self, trial: str) -> Path:
        """A trial's folder."""
        return self.out / TRIALS_FOLDER / trial

    def run(self, trial: str) -> Run:
        """A trial as a run, also if the sweep's folder was moved."""
        where = f"{self.out / SWEEP_FILE}: {trial}"
        return Run(replace(from_stored(self.trials[trial]["run"], RunConfig, where), out=self.folder(trial)))

    def status(self, trial: str) -> TrialStatus:
        """Where a trial stands."""
        return status_of(self.run(trial))


def lock_sweep(out: Path) -> IO[bytes]:
    """Keep other drivers out of the sweep's folder until the returned lock is closed; creates the folder.

    Raises:
        UserError: another process runs a sweep there, or the folder cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} exists and is not a sweep; name an empty or new folder with --out")
    is_new = not out.exists()
    if not is_new and not (out / SWEEP_FILE).exists() and not _is_unused(out):
        raise UserError(f"{out} exists and is not a sweep; name an empty or new folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        refusal = f"another process runs a sweep in {out}; wait for it, or name another --out"
        return exclusive_lock(out / SWEEP_LOCK, refusal)
    except OSError as error:
        raise UserError(
            f"{out} cannot be used as a sweep's folder ({error.strerror}); check your permissions"
        ) from error


def check_folder(sweep: SweepConfig) -> None:
    """Check that the sweep's folder, which is locked, is new, or belongs to this sweep.

    Raises:
        UserError: the folder contains a sweep with other options.
    """
    if not (sweep.out / SWEEP_FILE).exists():
        return
    stored, ours = _read_manifest(sweep.out)["identity"], _identity(sweep)
    if stored != ours:
        differing = next(name for name in ours if stored.get(name) != ours[name])
        raise UserError(
            f"{sweep.out} contains a sweep with other options (under {differing}); "
            "use the same options to resume it, or another --out"
        )


def _is_unused(out: Path) -> bool:
    """Whether a folder holds nothing but what a command leaves that a kill or a full disk ended at its start."""
    left = (SWEEP_LOCK, STOP_FILE)
    return all(entry.name in left or entry.name.startswith(f".{SWEEP_FILE}.") for entry in out.iterdir())


def write_manifest(sweep: SweepConfig, trials: Sequence[Trial], costs: Sequence[Cost]) -> SweepManifest:
    """Write the manifest into a checked folder."""
    content = {
        "format_version": FORMAT_VERSION,
        "identity": _identity(sweep),
        "choice": to_plain(sweep.choice),
        "trials": {
            trial.name: {"axes": trial.axes, "run": to_stored(trial.config), **asdict(cost)}
            for trial, cost in zip(trials, costs, strict=True)
        },
    }
    write_json_atomically(sweep.out / SWEEP_FILE, content)
    return open_sweep(sweep.out)


def _identity(sweep: SweepConfig) -> dict[str, Any]:
    """The options that identify a sweep, as JSON data."""
    return {
        "base": identity(sweep.base),
        "axes": to_plain(sweep)["axes"],
        "asha": to_plain(sweep.asha),
        "search": [sweep.search, sweep.search_seed],  # num_samples may grow
        "compare": sorted(sweep.compare),
    }


def open_sweep(out: Path) -> SweepManifest:
    """Read the manifest of a sweep.

    Raises:
        UserError: the folder is not a sweep, or its manifest is damaged or of another version.
    """
    if not (out / SWEEP_FILE).exists():
        raise UserError(f"{out} is not a sweep ({SWEEP_FILE} is missing); name the folder that `wm sweep` wrote")
    content = _read_manifest(out)
    choice = from_stored(content["choice"], ChoiceConfig, f"{out / SWEEP_FILE}: choice")
    return SweepManifest(out=out, choice=choice, trials=content["trials"])


def _read_manifest(out: Path) -> dict[str, Any]:
    path = out / SWEEP_FILE
    try:
        content = json.loads(path.read_text())
        version = content["format_version"]
        if version == FORMAT_VERSION:
            _ = content["identity"], content["choice"], content["trials"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); run the sweep into another folder") from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format {version}, expected {FORMAT_VERSION}; run the sweep into another folder, or use the "
            "version of this project that wrote it"
        )
    return content


def rows_of(manifest: SweepManifest, trial: str) -> list[ResultRow]:
    """A trial's rows, by targets seen and K."""
    facts, folder = manifest.trials[trial], manifest.folder(trial)
    if not (folder / RUN_FILE).exists():
        return []
    run = manifest.run(trial)
    meta = run.checkpoints.newest_meta()
    state = status_at(run, meta).state
    rows = [row for row in read_log(folder) if row["kind"] == "eval"]
    if meta is not None and state == "finished":
        at_end = meta["targets_seen"]
        rows = [row for row in rows if row["targets_seen"] < at_end]
        rows += meta["metrics"]  # of the final evaluation, also if the disk was full when they were to be logged
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
        for (targets_seen, context), row in sorted(evaluations.items(), key=lambda item: _order(*item[0]))
    ]


def _order(targets_seen: int, context: Context) -> tuple[Any, ...]:
    return targets_seen, context_order(context)


def collect_results(manifest: SweepManifest) -> list[ResultRow]:
    """The rows of all trials; writes them to results.jsonl too."""
    rows = [row for trial in manifest.trials for row in rows_of(manifest, trial)]
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    replace_file(manifest.out / RESULTS_FILE, text.encode())
    return rows
