"""The function that Ray Tune runs in each trial's process: the training code of `wm train`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from datasets.runtime.errors import UserError
from tune.config import AshaConfig, SweepConfig
from tune.results.trial_status import Failure, mark_failed
from tune.running.asha import SCORE, SETUP, TIME, score_of
from tune.search.trials import Trial, axes_text
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.runs.run_files import LocalRunFiles
from wm.runs.stop_request import StopRequest
from wm.training.device import set_num_threads
from wm.training.divergence import DivergedError
from wm.training.trainer import train
from wm.training.validation import Row

USER_ERROR = "user_error"
METRICS = ("change_acc", "pos_mae", "val_loss")
OUTPUT_FILE = "train.log"


def trial_setup(trial: Trial, sweep: SweepConfig, concurrent: int, sweep_folder: Path) -> dict[str, Any]:
    """The parameters of a trial, as plain data.

    Args:
        concurrent: trials that share the machine's cores.
        sweep_folder: a trial that starts while a stop request is in this folder ends at once.
    """
    return {
        "name": trial.name,
        "title": axes_text(trial.axes),
        "run": to_plain(trial.config),
        "asha": to_plain(sweep.asha),
        "concurrent": concurrent,
        "sweep_folder": str(sweep_folder),
    }


def run_trial(parameters: dict[str, Any]) -> None:
    """Run one trial to its end, to a stop request, or to an error."""
    setup = parameters[SETUP]
    config = from_plain(setup["run"], RunConfig, "trial")
    asha = from_plain(setup["asha"], AshaConfig, "trial")
    set_num_threads(config, setup["concurrent"])
    try:
        run = Run(config)
        run.claim()
        # After `claim`: a stop request goes to this folder first, and then into the folders of the trials that exist.
        is_stopped = StopRequest(LocalRunFiles(Path(setup["sweep_folder"]))).is_set_for_run()
        final = [] if is_stopped else _train(run, asha)
    except DivergedError as error:
        mark_failed(Path(config.out), Failure(kind="diverged", reason=str(error)))
        ray_tune.report({TIME: 0})
    except UserError as error:
        ray_tune.report({TIME: 0, USER_ERROR: str(error)})  # not raised, so that Tune does not retry
    else:
        # Only now: a trial that ASHA stops does not return from `report`, and could not write its last checkpoint.
        ray_tune.report(_result(asha, final) if final else {TIME: 0})


def _train(run: Run, asha: AshaConfig) -> list[Row]:
    """Train to the end; report each validation but the last, which is returned.

    Returns:
        The rows of the last validation; empty if a stop request ended the training.
    """
    final: list[Row] = []

    def report(rows: list[Row]) -> None:
        if rows[0]["targets_seen"] >= run.config.optimizer.total_targets:
            final.extend(rows)
        else:
            ray_tune.report(_result(asha, rows))

    newest, _ = run.checkpoints.newest_intact()
    with (run.files.folder / OUTPUT_FILE).open("a", buffering=1) as output, contextlib.redirect_stdout(output):
        train(run, open_data(run.config), report, None if newest is None else newest.path)
    return final


def _result(asha: AshaConfig, rows: list[Row]) -> dict[str, Any]:
    """One validation as a result of Tune."""
    numbers = {f"{name}@{row['context']}": row[name] for row in rows for name in METRICS}
    return numbers | {TIME: rows[0]["targets_seen"], "seconds": rows[0]["seconds"], SCORE: score_of(asha, rows)}
