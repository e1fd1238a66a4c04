"""What Ray shows of a run: metrics and a pointer to the checkpoint in `Result`, gauges in Prometheus; and the other way
round, notice of a preemption.

A validation is reported by `ray.train.report` with a checkpoint of one small file that names the run's own checkpoint:
without a checkpoint Ray keeps no metrics (`Result.metrics` would be None). `report` makes the ranks wait for each
other, and for Ray's controller if it has not fetched the report before (every half second, see `start_ray`), so
validations in quick succession are not all reported. Progress goes to gauges, which wait for nobody: Ray 2.60 shows
reports without a checkpoint nowhere.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint
from ray.util.metrics import Gauge

from datasets.runtime.errors import UserError
from wm.evaluation.metrics import METRICS
from wm.launch.train_worker import Reporter
from wm.runs.run import Run
from wm.runs.stop_request import request_stop
from wm.training import distributed
from wm.training.validation import Row

POINTER_FILE = "checkpoint.json"
"""In Ray's checkpoint: `{"checkpoint": path or URI of the run's newest checkpoint, or null}`."""
PROBE_BYTES = 1 << 20
MIN_REPORT_S = 5.0
"""Shortest time between two reports but the last, unless each is needed."""


class RayReporter(Reporter):
    """Reports one rank's run to Ray Train."""

    def __init__(self, run: Run, min_report_s: float | None = None) -> None:
        self._run, self._min_report_s = run, MIN_REPORT_S if min_report_s is None else min_report_s
        self._last_report = 0.0
        self._rows: list[Row] = []
        self._gauges: dict[str, Gauge] = {}

    def on_progress(self, row: Row) -> None:
        """Set the gauges; ask for a stop if Ray has notice that the node of some rank will be preempted."""
        self._show("train", row, {})
        if ray.train.get_preemption_info() is not None:
            request_stop()

    def on_validation(self, rows: list[Row]) -> None:
        """Report a validation, unless the last report was just before; the final one waits for its checkpoint."""
        for row in rows:
            self._show("eval", {name: row[name] for name in METRICS}, {"context": str(row["context"])})
        self._rows = rows
        is_final = rows[0]["targets_seen"] >= self._run.config.optimizer.total_targets
        is_due = not is_final and time.monotonic() - self._last_report >= self._min_report_s
        if distributed.broadcast_object(is_due):
            self._report()

    def on_end(self) -> None:
        """Report the last validation with the final checkpoint."""
        if self._rows:
            self._report()

    def _report(self) -> None:
        newest, is_away = None, False
        if distributed.rank() == 0:
            try:
                self._run.files.upload()  # who reads the report may read what it is about
                newest = self._newest_checkpoint()
                self._probe_disk()
            except (OSError, UserError):  # the run goes on while its storage is away or full; Ray would end it
                is_away = True
        if distributed.broadcast_object(is_away):
            return
        metrics, self._last_report = flattened(self._rows), time.monotonic()
        if distributed.rank() != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, POINTER_FILE).write_text(json.dumps({"checkpoint": newest}))
            ray.train.report(metrics | {"checkpoint": newest}, checkpoint=Checkpoint.from_directory(folder))

    def _newest_checkpoint(self) -> str | None:
        names = self._run.checkpoints.names()
        return self._run.checkpoints.location_of(names[-1]) if names else None

    def _probe_disk(self) -> None:
        """Write and delete what Ray's files may need: an error of Ray's controller ends the run.

        Raises:
            OSError: the disk is full.
        """
        filesystem, path = self._run.files.arrow_path()
        if filesystem is None:
            with tempfile.TemporaryFile(dir=path) as file:
                file.write(bytes(PROBE_BYTES))

    def _show(self, group: str, values: Row, tags: dict[str, str]) -> None:
        if distributed.rank() != 0:
            return
        tags = {"run": self._run.name, **tags}
        for name, value in values.items():
            key = f"wm_{group}_{name}"
            if key not in self._gauges:
                self._gauges[key] = Gauge(key, description=f"{name} of a run of wm train", tag_keys=tuple(tags))
            self._gauges[key].set(value, tags=tags)


def flattened(rows: list[Row]) -> dict[str, Any]:
    """The rows of a validation as one: metrics are named as in TensorBoard, `eval_K/change_acc`."""
    shared = {name: rows[0][name] for name in ("targets_seen", "seconds", "num_targets", "epochs")}
    return shared | {f"eval_{row['context']}/{name}": row[name] for row in rows for name in METRICS}


def rows_of_report(metrics: dict[str, Any]) -> list[Row]:
    """The rows from which `flattened` made a report: those of its columns that it keeps."""
    names = [name.removeprefix("eval_").split("/") for name in metrics if name.startswith("eval_")]
    shared = {name: value for name, value in metrics.items() if not name.startswith("eval_")}
    contexts = dict.fromkeys(context for context, _ in names)
    return [
        {"context": int(k) if k.isdecimal() else k}
        | shared
        | {name: metrics[f"eval_{k}/{name}"] for context, name in names if context == k}
        for k in contexts
    ]
