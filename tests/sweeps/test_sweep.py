"""Whole sweeps on Ray: what ASHA stops stays stopped, Optuna goes on where it was, a budget ends a sweep in order."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.tune import Callback, ExperimentAnalysis
from snapshots import list_checkpoints
from tiny_sweeps import tiny_sweep

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.results.rung_record import decisions_of
from tune.results.sweep_folder import open_sweep
from tune.running.spending import Spending
from tune.running.sweep import run_sweep
from tune.search.cost import cost_of
from tune.search.trials import trials_of
from wm.runs.run_files import open_run_files

pytestmark = pytest.mark.usefixtures("ray_session")
SPLIT = {"validation_fraction": 0.4}
"""So that the tiny corpus has several games to evaluate on."""


class RecordingCallback(Callback):
    """Writes what Tune reports to a file."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"config": trial.config, "targets_seen": result["targets_seen"]}) + "\n")


def rows_of_results(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_asha_stops_the_weak_setting_and_a_resumed_sweep_is_the_same(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, reported = tmp_path / "sweep", tmp_path / "reported.jsonl"
    sweep = tiny_sweep(
        tiny_corpus, out,
        axes={"optimizer.learning_rate": [1e-2, 1e-9]},
        asha={"grace": 256, "reduction_factor": 2, "metric": "val_loss", "context": 5},
        callbacks={f"{__name__}.RecordingCallback": {"path": str(reported)}},
        max_concurrent=1,
        base={"split": SPLIT, "checkpoint": {"every_s": 0.001}},
    )  # fmt: skip
    run_sweep(sweep)
    strong, weak = trials_of(sweep)
    rows = rows_of_results(out)
    assert Counter((row["trial"], row["context"], row["targets_seen"]) for row in rows) == Counter(
        [(strong.name, k, t) for t in (128, 256, 384, 512) for k in (1, 5)]
        + [(weak.name, k, t) for t in (128, 256) for k in (1, 5)]
    )
    assert {(row["trial"], row["state"]) for row in rows} == {(strong.name, "finished"), (weak.name, "stopped")}
    printed = capsys.readouterr().out
    assert "val_loss" in printed and "worse than learning_rate=0.01" in printed and "action changes in" in printed
    seen = [json.loads(line) for line in reported.read_text().splitlines()]
    assert [(row["config"], row["targets_seen"]) for row in seen if row["config"] == weak.axes][-1] == (weak.axes, 256)

    # As after a killed command: the strong trial resumes from its last checkpoint, the weak one stays stopped.
    checkpoints = list_checkpoints(Path(strong.config.out) / "checkpoints")
    shutil.rmtree(checkpoints[-1])
    run_sweep(sweep)
    assert "1 of them ended before" in capsys.readouterr().out
    assert rows_of_results(out) == rows
    assert len(decisions_of(open_run_files(strong.config.out))) == 1, "the rung was not judged again"

    run_sweep(sweep)
    assert "2 of them ended before" in capsys.readouterr().out
    analysis = ExperimentAnalysis(out / "trials")
    assert [len(frame) for frame in analysis.trial_dataframes.values()] == [4, 2]
    assert analysis.results_df["config/optimizer.learning_rate"].tolist() == [1e-2, 1e-9]

    with pytest.raises(UserError, match="contains a sweep with other options"):
        run_sweep(tiny_sweep(tiny_corpus, out, axes={"seed": [1]}))


def one_trial_flops(sweep: SweepConfig) -> float:
    return cost_of(sweep.base).train_flops_per_target * sweep.base.optimizer.total_targets


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 1.1], ids=["less than a trial", "more than a trial"])
def test_optuna_suggests_from_results_and_a_budget_ends_the_sweep_until_it_is_raised(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
):
    pytest.importorskip("optuna")
    out = tmp_path / "sweep"
    options: dict[str, Any] = {
        "axes": {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
        "search": "optuna",
        "num_samples": 3,
        "max_concurrent": 1,
        "usd_per_hour": 1.0,
    }
    flops = share * one_trial_flops(tiny_sweep(tiny_corpus, out, **options))
    run_sweep(tiny_sweep(tiny_corpus, out, max_flops=flops, **options))
    printed = capsys.readouterr().out
    first = open_sweep(out)
    assert share < 1 or first.status(next(iter(first.trials))).state == "finished"
    assert len(first.trials) < 3, "what a later command suggests from more results"
    assert f"the budget of {flops:,.4g} FLOPs of training (max_flops) is used up" in printed
    assert "--max-flops" in printed
    assert re.search("No choice of K|K = ", printed), "what ended is chosen from"

    run_sweep(tiny_sweep(tiny_corpus, out, **options))
    manifest = open_sweep(out)
    assert list(manifest.trials)[: len(first.trials)] == list(first.trials)
    assert [manifest.status(name).state for name in manifest.trials] == ["finished"] * 3
    assert len({facts["axes"]["optimizer.learning_rate"] for facts in manifest.trials.values()}) == 3
    spending = Spending(tiny_sweep(tiny_corpus, out, **options), open_run_files(out))
    assert set(spending.device_seconds) == set(manifest.trials)


def test_a_missing_package_or_a_wrong_argument_of_a_callback_is_named_before_anything_starts(
    tiny_corpus: Path, tmp_path: Path
):
    for callbacks, message in (
        (["no_such_package.Logger"], r"callbacks.no_such_package.Logger cannot be imported \(No module named"),
        (["ray.air.integrations.wandb.NoLogger"], "cannot be imported .* has no attribute"),
        (["Logger"], "callbacks.Logger: expected a dotted path"),
        (["collections.Counter"], "callbacks.collections.Counter is not a subclass of ray.tune.Callback"),
        ({f"{__name__}.RecordingCallback": {"file": 1}}, "RecordingCallback: .*unexpected keyword argument 'file'"),
        (["ray.air.integrations.mlflow.MLflowLoggerCallback"], "MLflowLoggerCallback cannot be"),
    ):
        sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", callbacks=callbacks)
        with pytest.raises(UserError, match=message):
            run_sweep(sweep)
    assert not (tmp_path / "sweep").exists()
