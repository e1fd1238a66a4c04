"""The folder of the trials in the format of Ray Tune: what ResultGrid, ExperimentAnalysis, TensorBoard and pandas read.

trials/experiment_state-sweep.json    the trials with their axes, states and last results
trials/NAME/params.json               the trial's value on each axis
trials/NAME/result.json, progress.csv a row per validation
trials/NAME/hparams/                  axes and last result, for the HParams page of TensorBoard

Everything follows from the trials' own files, and each file is replaced as a whole. So a sweep that was resumed, by
however many commands, has every trial and every validation once. Tune's own loggers cannot do that: each command is an
experiment of its own to them, they begin new files, and `Tuner.restore` loses the scheduler (ray issue 30838).
"""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.utils import flatten_dict
from ray.tune.utils.serialization import TuneFunctionEncoder
from tensorboardX import FileWriter
from tensorboardX.summary import hparams, scalar

from datasets.runtime.durable_files import replace_file
from tune.config import AxisValue
from tune.results.sweep_folder import ResultRow, SweepManifest, for_each, rows_of
from tune.results.trial_status import State, TrialStatus
from tune.search.trials import TRIALS_FOLDER
from wm.evaluation.metrics import METRICS
from wm.runs.run_files import RunFiles

STATE_FILE = "experiment_state-sweep.json"
HPARAMS_FOLDER = "hparams"
HPARAMS_FILE = "events.out.tfevents.0.hparams"
"""One name, so that a command on another machine replaces it; TensorBoard's own names contain the host's."""
TUNE_STATES: dict[State, str] = {
    "pending": TuneTrial.PENDING, "running": TuneTrial.RUNNING, "interrupted": TuneTrial.PAUSED,
    "finished": TuneTrial.TERMINATED, "stopped": TuneTrial.TERMINATED, "failed": TuneTrial.ERROR,
}  # fmt: skip


class Experiment:
    """Writes a sweep in Tune's format. `update` after every validation and change of state."""

    def __init__(self, manifest: SweepManifest, files: RunFiles) -> None:
        """Write the sweep as it stands.

        Args:
            files: of the sweep; its folder is open.
        """
        self._manifest = manifest
        self._states: dict[str, tuple[str, str]] = {}
        self._folder = files.folder / TRIALS_FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        # Tune's readers replace the place that a trial's state names by the one that they read.
        self._storage = StorageContext(storage_path=str(files.folder), experiment_dir_name=TRIALS_FOLDER)
        self._write_trials(list(manifest.trials))

    def update(self, name: str) -> None:
        """Write one trial anew."""
        self._write_trials([name])

    def add_trials(self, manifest: SweepManifest) -> None:
        """Take over a manifest that has more trials than before."""
        self._manifest = manifest
        self._write_trials([name for name in manifest.trials if name not in self._states])

    def _write_trials(self, names: Sequence[str]) -> None:
        for name, facts in zip(names, for_each(self._read, names, self._manifest.out), strict=True):
            self._write_trial(name, *facts)
        self._write_state()

    def _read(self, name: str) -> tuple[TrialStatus, list[ResultRow]]:
        return self._manifest.status(name), rows_of(self._manifest, name)

    def _write_trial(self, name: str, status: TrialStatus, found: Sequence[ResultRow]) -> None:
        axes = self._manifest.trials[name]["axes"]
        rows = result_rows(name, axes, found, status.state)
        folder = self._folder / name
        if rows:  # a trial that has not begun has no folder: it would not be known as a run's
            _replace(folder / "params.json", json.dumps(axes, indent=2, sort_keys=True))
            _replace(folder / "result.json", "".join(json.dumps(row) + "\n" for row in rows))
            _replace(folder / "progress.csv", _as_csv(rows))
        if rows and status.state in ("finished", "stopped"):
            write_hparams(folder / HPARAMS_FOLDER, axes, rows[-1])
        self._states[name] = self._tune_trial(name, axes, rows, TUNE_STATES[status.state]).get_json_state()

    def _tune_trial(self, name: str, axes: dict[str, AxisValue], rows: Sequence[dict], state: str) -> TuneTrial:
        storage = copy.copy(self._storage)
        storage.trial_dir_name = name
        trial = TuneTrial("train", config=axes, evaluated_params=axes, trial_id=id_of(name), storage=storage, stub=True)
        trial.custom_trial_name = trial.custom_dirname = trial.relative_logdir = name
        trial.create_placement_group_factory()
        trial.status = state
        for row in rows:
            trial.update_last_result(dict(row))
        return trial

    def _write_state(self) -> None:
        content = {"trial_data": [self._states[name] for name in self._manifest.trials], "runner_data": {}, "stats": {}}
        _replace(self._folder / STATE_FILE, json.dumps(content, cls=TuneFunctionEncoder))


def id_of(name: str) -> str:
    """Tune's id of a trial: the hash at the end of its name."""
    return name.rpartition("_")[2]


def result_rows(
    name: str, axes: Mapping[str, AxisValue], rows: Sequence[ResultRow], state: State
) -> list[dict[str, Any]]:
    """The validations of a trial as Tune's results; metrics are `eval_K/NAME`, as in the run's TensorBoard."""
    by_time: dict[int, list[ResultRow]] = {}
    for row in rows:
        by_time.setdefault(row.targets_seen, []).append(row)
    return [
        {
            "trial_id": id_of(name),
            "training_iteration": number,
            "targets_seen": targets_seen,
            "train_flops": at_once[0].train_flops,
            "time_total_s": at_once[0].seconds,
            "num_parameters": at_once[0].num_parameters,
            "num_judged": at_once[0].num_judged,
            "done": state in ("finished", "stopped", "failed") and targets_seen == max(by_time),
            "state": state,
        }
        | {f"eval_{row.context}/{metric}": getattr(row, metric) for row in at_once for metric in METRICS}
        | {"config": dict(axes)}
        for number, (targets_seen, at_once) in enumerate(sorted(by_time.items()), 1)
    ]


def write_hparams(folder: Path, axes: Mapping[str, AxisValue], result: Mapping[str, Any]) -> None:
    """The axes and the last result of a trial for TensorBoard's HParams page; replaces what is there."""
    metrics = {key: value for key, value in result.items() if key.startswith("eval_") and value is not None}
    with tempfile.TemporaryDirectory(prefix="wm-hparams-") as scratch:
        writer = FileWriter(scratch)
        for summary in hparams(hparam_dict=dict(axes), metric_dict=metrics):
            writer.add_summary(summary)
        for key, value in metrics.items():
            writer.add_summary(scalar(key, value), result["targets_seen"])
        writer.close()
        (events,) = Path(scratch).iterdir()
        content = events.read_bytes()
    shutil.rmtree(folder, ignore_errors=True)  # older versions wrote other names
    folder.mkdir(parents=True)
    replace_file(folder / HPARAMS_FILE, content, survives_power_loss=False)


def _as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows with their axes as columns `config/AXIS`."""
    flat = [flatten_dict(row, delimiter="/") for row in rows]
    output = io.StringIO()
    writer = csv.DictWriter(output, list(dict.fromkeys(key for row in flat for key in row)))
    writer.writeheader()
    writer.writerows(flat)
    return output.getvalue()


def _replace(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.encode(), survives_power_loss=False)
