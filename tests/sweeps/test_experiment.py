"""A sweep in the format of Ray Tune: its own readers find every trial and every validation once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from ray.tune import ExperimentAnalysis, ResultGrid

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.results.rung_record import RungDecision, record_decision
from tune.results.sweep_folder import SweepManifest, check_folder, write_manifest
from tune.results.trial_status import Failure, mark_failed
from tune.running.experiment import Experiment
from tune.search.cost import Cost
from tune.search.trials import Trial, trials_of
from wm.config.run_identity import identity
from wm.config.typed_yaml import from_plain
from wm.runs.run import Run
from wm.runs.run_files import open_run_files

ROOT = Path(__file__).resolve().parents[2]
AXES = {"size": ["small", "xl"], "optimizer.learning_rate": [1e-3], "seed": [0, 1]}


def add_validation(trial: Trial, targets_seen: int, change_acc: float | None) -> None:
    """As the trial's process logs it."""
    folder = Run(trial.config).files.folder
    if not (folder / "run.json").exists():
        Run(trial.config).files.create()
        Run(trial.config).files.write_json("run.json", identity(trial.config))
    for context in (1, 10):
        row = {"kind": "eval", "targets_seen": targets_seen, "context": context, "seconds": targets_seen / 1000}
        row |= {"num_targets": 500, "change_acc": change_acc, "action_acc": 0.9, "pos_mae": 0.2, "val_loss": 0.5}
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")


def costs() -> Cost:
    """What the trials are said to cost."""
    return Cost(num_parameters=1_000, train_flops_per_target=1e6, window_flops={1: 1e6, 10: 1e7})


@pytest.fixture
def sweep_folder(tmp_path: Path) -> tuple[SweepManifest, list[Trial]]:
    """A sweep with an interrupted, a stopped, a failed and a pending trial."""
    out = tmp_path / "runs" / "sweep"
    base = {"eval": {"contexts": [1, 10]}}
    sweep = from_plain({"out": str(out), "axes": AXES, "base": base}, SweepConfig, "sweep.yaml")
    trials = trials_of(sweep)
    out.mkdir(parents=True)
    manifest = write_manifest(sweep, trials, [costs()] * len(trials))
    for targets_seen in (500_000, 1_000_000):
        add_validation(trials[0], targets_seen, 0.5)
    add_validation(trials[1], 500_000, 0.3)
    stop = RungDecision(targets_seen=500_000, rung=500_000, score=0.3, stops=True, reason="worse")
    record_decision(manifest.run(trials[1].name).files, stop)
    add_validation(trials[2], 500_000, 0.4)
    mark_failed(manifest.run(trials[2].name).files, Failure(kind="diverged", reason="the loss is not finite"))
    return manifest, trials


def test_the_five_lines_of_the_documentation_read_a_sweep(
    sweep_folder: tuple[SweepManifest, list[Trial]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    manifest, _ = sweep_folder
    Experiment(manifest, open_run_files(manifest.out))
    (code,) = re.findall(r"```python\n(.*?ExperimentAnalysis.*?)```", (ROOT / "docs/sweeps.md").read_text(), re.DOTALL)
    assert len(re.findall(r"^\S", code, re.MULTILINE)) == 5
    monkeypatch.chdir(manifest.out.parents[1])
    exec(code, {})
    printed = capsys.readouterr().out
    assert "config/size" in printed and "eval_10/change_acc" in printed
    assert "xl" in printed and "0.5" in printed


def test_the_readers_of_tune_find_every_trial_with_its_axes_as_columns(
    sweep_folder: tuple[SweepManifest, list[Trial]],
):
    manifest, trials = sweep_folder
    Experiment(manifest, open_run_files(manifest.out))
    analysis = ExperimentAnalysis(manifest.out / "trials")
    assert [trial.status for trial in analysis.trials] == ["PAUSED", "TERMINATED", "ERROR", "PENDING"]
    assert [trial.config for trial in analysis.trials] == [trial.axes for trial in trials]
    results = ResultGrid(analysis)
    frame = results.get_dataframe()
    assert frame["config/size"].tolist() == ["small", "small", "xl"]
    assert frame["config/optimizer.learning_rate"].tolist() == [1e-3] * 3
    assert frame["config/seed"].tolist() == [0, 1, 0]
    assert frame["eval_10/change_acc"].tolist() == [0.5, 0.3, 0.4]
    assert frame["targets_seen"].tolist() == [1_000_000, 500_000, 500_000]
    best = results.get_best_result("eval_10/change_acc", "max")
    assert best.config == trials[0].axes and Path(best.path) == trials[0].config.out
    assert best.metrics_dataframe is not None
    assert best.metrics_dataframe["targets_seen"].tolist() == [500_000, 1_000_000]


def test_a_resumed_sweep_has_every_validation_once(sweep_folder: tuple[SweepManifest, list[Trial]]):
    manifest, trials = sweep_folder
    Experiment(manifest, open_run_files(manifest.out))
    resumed = Experiment(manifest, open_run_files(manifest.out))
    add_validation(trials[0], 1_500_000, 0.6)
    add_validation(trials[3], 500_000, 0.7)
    for trial in (trials[0], trials[3]):
        resumed.update(trial.name)
    frames = ExperimentAnalysis(manifest.out / "trials").trial_dataframes
    assert [len(frame) for frame in frames.values()] == [3, 1, 1, 1]


def test_pandas_and_tensorboard_read_the_files_of_a_trial(sweep_folder: tuple[SweepManifest, list[Trial]]):
    manifest, trials = sweep_folder
    Experiment(manifest, open_run_files(manifest.out))
    stopped = manifest.folder(trials[1].name)
    table = pandas.read_csv(stopped / "progress.csv")
    assert table[["targets_seen", "config/size", "eval_1/pos_mae"]].to_numpy().tolist() == [[500_000, "small", 0.2]]
    assert pandas.read_json(stopped / "result.json", lines=True)["state"].tolist() == ["stopped"]
    (events,) = (stopped / "hparams").iterdir()
    content = events.read_bytes()
    for expected in (b"_hparams_/session_start_info", b"optimizer.learning_rate", b"eval_10/change_acc"):
        assert expected in content


def test_a_trial_that_has_not_begun_gets_no_folder(sweep_folder: tuple[SweepManifest, list[Trial]]):
    manifest, trials = sweep_folder
    Experiment(manifest, open_run_files(manifest.out))
    assert not manifest.folder(trials[3].name).exists(), "its run would take the folder for something else's"
    Run(trials[3].config).claim()


def test_metrics_without_a_value_are_read_as_missing(sweep_folder: tuple[SweepManifest, list[Trial]]):
    manifest, trials = sweep_folder
    add_validation(trials[3], 500_000, None)
    Experiment(manifest, open_run_files(manifest.out))
    frame = ExperimentAnalysis(manifest.out / "trials").results_df
    assert frame["eval_10/change_acc"].isna().tolist() == [False, False, False, True]


def test_a_sweep_may_grow_but_not_become_another(tmp_path: Path):
    def folder_of(**content: Any) -> SweepConfig:
        axes = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-2}, "seed": [0]}
        whole = {"out": str(tmp_path), "axes": axes, "search": "random", "num_samples": 2} | content
        return from_plain(whole, SweepConfig, "sweep.yaml")

    trials = trials_of(folder_of())
    write_manifest(folder_of(), trials, [costs()] * len(trials))
    for allowed in ({"num_samples": 3}, {"max_hours": 3}, {"choice": {"threshold": 0.01}}, {"max_concurrent": 1}):
        check_folder(folder_of(**allowed))
    for other in ({"search_seed": 1}, {"compare": ["seed", "optimizer.kind"]}, {"asha": {"enabled": False}}):
        with pytest.raises(UserError, match="contains a sweep with other options"):
            check_folder(folder_of(**other))
