"""A sweep's folder: its manifest, the state of each trial, and one row for each (trial, evaluated K, targets seen).

The folder is on a disk, or in object storage, where it is a sweep like any other: each trial is a run there, and what
the driver writes often is uploaded every few seconds (`wm.runs.mirror`).

sweep.json      the manifest: the options that identify the sweep, and its trials with their configs and cost
trials/NAME/    a run's folder (see `wm.runs.run`); the rows are read from its log.jsonl
                rungs.jsonl: what ASHA decided; failed.json: why it failed; train.log: its output
results.jsonl   the rows of all trials
spent.json      what the sweep has used, see `tune.running.spending`
ray/            Ray Tune's experiment state, which is never read; of a sweep in object storage it is not kept
sweep.lock      lock of the driver
stop            whether the sweep is asked to stop, see `wm.runs.stop_request`
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote, mistake_in, without_credentials
from tune.config import AxisValue, ChoiceConfig, SweepConfig
from tune.results.trial_status import OUTAGE_S, State, TrialStatus, status_at, status_of
from tune.search.cost import Cost
from tune.search.trials import Trial, trial_location
from wm.checkpoints.store import reason_of
from wm.config.run_config import Context, RunConfig
from wm.config.run_identity import identity, to_stored
from wm.config.typed_yaml import from_stored, to_plain
from wm.evaluation.metrics import METRICS, context_order
from wm.runs.run import RUN_FILE, Run
from wm.runs.run_files import Lock, RunFiles, open_run_files
from wm.runs.run_log import log_rows
from wm.runs.stop_request import STOP_FILE

Item = TypeVar("Item")
Result = TypeVar("Result")

FORMAT_VERSION = 2
"""1: first. 2: the config of each trial, from which its checkpoints are found and its state follows."""
SWEEP_FILE = "sweep.json"
SWEEP_LOCK = "sweep.lock"
RESULTS_FILE = "results.jsonl"
REQUESTS_AT_ONCE = 16
"""To object storage, where each takes tens of milliseconds."""


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
    coherence_20: float | None
    """Mean position error of dreams over their 20 frames, game units (`wm rollout`): of the final model, whatever the K
    of the row; None before the final evaluation, and with `eval.num_dreams: 0`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepManifest:
    """The content of sweep.json."""

    out: Path | str
    """Folder or URI of the sweep."""
    choice: ChoiceConfig
    """When a shorter K is good enough."""
    trials: dict[str, dict[str, Any]]
    """Name -> axes, config and cost."""
    retry_s: float = 0.0
    """How long a request to object storage that cannot be reached is tried again."""

    @property
    def location(self) -> str:
        """The folder or URI as messages show it, without credentials."""
        return without_credentials(str(self.out))

    def folder(self, trial: str) -> Path | str:
        """A trial's folder or URI."""
        return trial_location(self.out, trial)

    def run(self, trial: str) -> Run:
        """A trial as a run, also if the sweep's folder was moved."""
        config = from_stored(self.trials[trial]["run"], RunConfig, f"{self.location}/{SWEEP_FILE}: {trial}")
        return Run(replace(config, out=self.folder(trial)), retry_s=self.retry_s)

    def status(self, trial: str) -> TrialStatus:
        """Where a trial stands."""
        return status_of(self.run(trial))


def lock_sweep(out: Path | str) -> Lock:
    """Keep other drivers out of the sweep's folder until the returned lock is closed; creates the folder.

    Raises:
        UserError: another process runs a sweep there, or the folder cannot be written.
    """
    files = open_run_files(out)  # without retries: a mistake in a URI is found within seconds
    occupied = f"{files.location} exists and is not a sweep; name an empty or new folder with --out"
    try:
        files.check()
        if not files.exists(SWEEP_FILE) and not all(map(_is_left_by_a_kill, files.names())):
            raise UserError(occupied)
        files.create()
        refusal = f"another process runs a sweep in {files.location}; wait for it, or name another --out"
        return files.lock(SWEEP_LOCK, uuid.uuid4().hex, refusal)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(occupied) from error
    except OSError as error:
        raise UserError(
            f"{files.location} cannot be used as a sweep's folder ({reason_of(error)}); check that it can be reached, "
            "and your permissions there"
        ) from error


def check_folder(sweep: SweepConfig) -> None:
    """Check that the sweep's folder, which is locked, is new, or belongs to this sweep.

    Raises:
        UserError: the folder contains a sweep with other options.
    """
    files = open_run_files(sweep.out, OUTAGE_S)
    if not files.exists(SWEEP_FILE):
        return
    stored, ours = _read_manifest(files)["identity"], _identity(sweep)
    if stored != ours:
        differing = next(name for name in ours if stored.get(name) != ours[name])
        raise UserError(
            f"{files.location} contains a sweep with other options (under {differing}); "
            "use the same options to resume it, or another --out"
        )


def _is_left_by_a_kill(name: str) -> bool:
    """Whether a file may be left by a command that a kill or a full disk ended at its start."""
    return name in (SWEEP_LOCK, STOP_FILE) or name.startswith((f".{SWEEP_FILE}.", f"{SWEEP_LOCK}."))


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
    open_run_files(sweep.out, OUTAGE_S).write_json(SWEEP_FILE, content)
    return open_sweep(sweep.out, OUTAGE_S)


def _identity(sweep: SweepConfig) -> dict[str, Any]:
    """The options that identify a sweep, as JSON data."""
    return {
        "base": identity(sweep.base),
        "axes": to_plain(sweep)["axes"],
        "asha": to_plain(sweep.asha),
        "search": [sweep.search, sweep.search_seed],  # num_samples may grow
        "compare": sorted(sweep.compare),
    }


def open_sweep(out: Path | str, retry_s: float = 0.0) -> SweepManifest:
    """Read the manifest of a sweep.

    Args:
        out: its folder or URI.
        retry_s: how long a request to object storage that cannot be reached is tried again.
    Raises:
        UserError: the folder is not a sweep, or its manifest is damaged or of another version, or it cannot be read.
    """
    if mistake := mistake_in(out):
        raise UserError(mistake)
    out = out if is_remote(str(out)) else Path(out)
    files = open_run_files(out, retry_s)
    with reading_sweep(files.location):
        content = _read_manifest(files)
    choice = from_stored(content["choice"], ChoiceConfig, f"{files.path_of(SWEEP_FILE)}: choice")
    return SweepManifest(out=out, choice=choice, trials=content["trials"], retry_s=retry_s)


def is_sweep(location: Path | str) -> bool:
    """Whether there is a sweep at a path or URI.

    Raises:
        UserError: a URI cannot be reached.
    """
    files = open_run_files(location)
    with reading_sweep(files.location):
        return files.exists(SWEEP_FILE)


@contextmanager
def reading_sweep(location: str) -> Iterator[None]:
    """Turn an OSError into a user's error: the sweep cannot be read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{location} cannot be read ({reason_of(error)}); check that it can be reached") from error


def for_each(function: Callable[[Item], Result], items: Iterable[Item], out: Path | str) -> list[Result]:
    """The results of a function that reads a sweep, in order; of one in object storage, many at once."""
    if not is_remote(str(out)):
        return [function(item) for item in items]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        return list(pool.map(function, items))


def _read_manifest(files: RunFiles) -> dict[str, Any]:
    path = files.path_of(SWEEP_FILE)
    try:
        content = json.loads(files.read(SWEEP_FILE))
        version = content["format_version"]
        if version == FORMAT_VERSION:
            _ = content["identity"], content["choice"], content["trials"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{files.location} is not a sweep ({SWEEP_FILE} is missing); name the folder that `wm sweep` wrote"
        ) from error
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
    facts, run = manifest.trials[trial], manifest.run(trial)
    if not run.files.exists(RUN_FILE):
        return []
    meta = run.checkpoints.newest_meta()
    state = status_at(run, meta).state
    rows = [row for row in log_rows(run.files) if row["kind"] == "eval"]
    at_end, dreams = None, None
    if meta is not None and state == "finished":
        at_end = meta["targets_seen"]
        rows = [row for row in rows if row["targets_seen"] < at_end]
        dreams = coherence_of(run, at_end)
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
            coherence_20=dreams if targets_seen == at_end else None,
        )
        for (targets_seen, context), row in sorted(evaluations.items(), key=lambda item: _order(*item[0]))
    ]


def coherence_of(run: Run, targets_seen: int) -> float | None:
    """Coherence over 20 frames after the final evaluation; None if it was not measured, or not over 20 frames."""
    found = run.evaluations.read_dreams(targets_seen)
    return None if found is None else found.get("coherence_20")


def _order(targets_seen: int, context: Context) -> tuple[Any, ...]:
    return targets_seen, context_order(context)


def collect_results(manifest: SweepManifest) -> list[ResultRow]:
    """The rows of all trials; writes them to results.jsonl too."""
    by_trial = for_each(lambda trial: rows_of(manifest, trial), manifest.trials, manifest.out)
    rows = [row for rows in by_trial for row in rows]
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    open_run_files(manifest.out, manifest.retry_s).write(RESULTS_FILE, text.encode())
    return rows
