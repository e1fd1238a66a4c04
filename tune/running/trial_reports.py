"""What a trial tells Ray Tune: each validation as one result, from its own process or through Ray Train's workers."""

from __future__ import annotations

from typing import Any

from ray import tune as ray_tune
from ray.tune.integration.ray_train import TuneReportCallback

from tune.config import AshaConfig
from tune.running.asha import SCORE, TIME, score_of
from wm.launch.ray_reporter import rows_of_report
from wm.launch.train_worker import Reporter
from wm.runs.run import Run
from wm.training.validation import Row

METRICS = ("change_acc", "pos_mae", "val_loss")


def result_of(asha: AshaConfig, rows: list[Row]) -> dict[str, Any]:
    """One validation as a result of Tune."""
    numbers = {f"{name}@{row['context']}": row[name] for row in rows for name in METRICS}
    return numbers | {TIME: rows[0]["targets_seen"], "seconds": rows[0]["seconds"], SCORE: score_of(asha, rows)}


class TuneReporter(Reporter):
    """Reports a trial that trains in its own process.

    A trial that the scheduler stops does not return from `ray.tune.report`. The last result is therefore reported when
    the last checkpoint is written.
    """

    def __init__(self, run: Run, asha: AshaConfig) -> None:
        self._total_targets, self._asha = run.config.optimizer.total_targets, asha
        self._final: list[Row] = []

    def on_validation(self, rows: list[Row]) -> None:
        """Report a validation, and wait until the scheduler has decided about it."""
        if rows[0]["targets_seen"] >= self._total_targets:
            self._final = rows
        else:
            ray_tune.report(result_of(self._asha, rows))

    def on_end(self) -> None:
        """Report the final evaluation."""
        ray_tune.report(result_of(self._asha, self._final))


class ReportToTune(TuneReportCallback):
    """Passes the reports of Ray Train's workers on to Tune; made in the trial's process."""

    def __init__(self, asha: AshaConfig) -> None:
        super().__init__()
        self._asha = asha

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train's controller.

        Args:
            metrics: of each rank; the first one's are `wm.launch.ray_reporter.flattened`.
        """
        super().after_report(run_context, [result_of(self._asha, rows_of_report(metrics[0]))], None)
