"""What a trial tells Ray Tune: each validation as one result, from its own process or through Ray Train's workers."""

from __future__ import annotations

from typing import Any

from ray import tune as ray_tune
from ray.tune.integration.ray_train import TuneReportCallback

from tune.running.asha import TIME
from wm.evaluation.metrics import METRICS
from wm.launch.ray_reporter import rows_of_report
from wm.launch.train_worker import Reporter
from wm.runs.run import Run
from wm.training.validation import Row


def result_of(rows: list[Row]) -> dict[str, Any]:
    """One validation as a result of Tune; its time steps are targets seen, for loggers."""
    numbers = {f"eval_{row['context']}/{name}": row[name] for row in rows for name in METRICS}
    seen = rows[0]["targets_seen"]
    return numbers | {TIME: seen, "timesteps_total": seen, "train_seconds": rows[0]["seconds"]}


class TuneReporter(Reporter):
    """Reports a trial that trains in its own process.

    A trial that the scheduler stops does not return from `ray.tune.report`. The last result is therefore reported when
    the last checkpoint is written.
    """

    def __init__(self, run: Run) -> None:
        self._files, self._total_targets = run.files, run.config.optimizer.total_targets
        self._final: list[Row] = []

    def on_validation(self, rows: list[Row]) -> None:
        """Report a validation, and wait until the scheduler has decided about it."""
        if rows[0]["targets_seen"] >= self._total_targets:
            self._final = rows
        else:
            self._files.upload()  # the scheduler reads the sums by game
            ray_tune.report(result_of(rows))

    def on_end(self) -> None:
        """Report the final evaluation."""
        ray_tune.report(result_of(self._final))


class ReportToTune(TuneReportCallback):
    """Passes the reports of Ray Train's workers on to Tune; made in the trial's process."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train's controller.

        Args:
            metrics: of each rank; the first one's are `wm.launch.ray_reporter.flattened`.
        """
        super().after_report(run_context, [result_of(rows_of_report(metrics[0]))], None)
