"""What a run tells Ray, and what it learns from Ray, with Ray's functions replaced by lists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run, tiny_run

from wm.evaluation.metrics import METRICS
from wm.launch import ray_reporter
from wm.launch.ray_reporter import POINTER_FILE, RayReporter
from wm.runs.run import Run
from wm.training.validation import Row


class Told:
    """What Ray was told."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.pointers: list[dict[str, Any]] = []
        self.gauges: dict[str, float] = {}
        self.num_stops = 0

    def report(self, metrics: dict[str, Any], checkpoint: Any) -> None:
        self.reports.append(metrics)
        self.pointers.append(json.loads(Path(checkpoint.path, POINTER_FILE).read_text()))


@pytest.fixture
def told(monkeypatch) -> Told:
    """Instead of Ray."""
    told = Told()

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            told.gauges[",".join([self.name, *tags.values()])] = value

    def stop() -> None:
        told.num_stops += 1

    monkeypatch.setattr(ray_reporter.ray.train, "report", told.report)
    monkeypatch.setattr(ray_reporter.ray.train, "get_preemption_info", lambda: None)
    monkeypatch.setattr(ray_reporter, "Gauge", Gauge)
    monkeypatch.setattr(ray_reporter, "request_stop", stop)
    return told


def rows_at(targets_seen: int) -> list[Row]:
    """A validation at one context."""
    shared = {"targets_seen": targets_seen, "seconds": 1.0, "num_targets": 20, "epochs": 0.1, "context": 5}
    return [shared | dict.fromkeys(METRICS, targets_seen / 1_000)]


@pytest.fixture
def reporter(tmp_path, told) -> RayReporter:
    """Of a run without checkpoints."""
    config = tiny_run(tmp_path / "corpus", tmp_path / "run")
    config.out.mkdir()
    return RayReporter(Run(config))


def test_validations_in_quick_succession_are_reported_once_and_the_last_one_at_the_end(reporter, told):
    for targets in (100, 200, 300):
        reporter.on_validation(rows_at(targets))
    assert [report["eval_5/change_acc"] for report in told.reports] == [0.1]
    assert told.gauges["wm_eval_change_acc,run,5"] == 0.3
    reporter.on_end()
    assert [report["targets_seen"] for report in told.reports] == [100, 300]
    assert told.pointers == [{"checkpoint": None}] * 2


def test_a_run_that_was_complete_before_reports_nothing(reporter, told):
    reporter.on_end()
    assert not told.reports


def test_a_full_disk_skips_the_report_because_rays_controller_would_end_the_run(reporter, told, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(ray_reporter.tempfile, "TemporaryFile", full)
        reporter.on_validation(rows_at(100))
    assert not told.reports
    reporter.on_validation(rows_at(200))
    assert [report["targets_seen"] for report in told.reports] == [200]


def test_notice_of_a_preemption_asks_the_run_to_stop(reporter, told, monkeypatch):
    reporter.on_progress({"loss": 2.0})
    assert told.gauges == {"wm_train_loss,run": 2.0}
    assert told.num_stops == 0
    monkeypatch.setattr(ray_reporter.ray.train, "get_preemption_info", lambda: "node 3 in two minutes")
    reporter.on_progress({"loss": 1.0})
    assert told.num_stops == 1


def test_the_pointer_names_a_checkpoint_that_can_be_evaluated(tiny_corpus, tmp_path, told):
    config = tiny_run(tiny_corpus, tmp_path / "trained")
    config = replace(config, optimizer=replace(config.optimizer, total_targets=256))
    run(config)
    reporter = RayReporter(Run(config))
    reporter.on_validation(rows_at(10**9))
    reporter.on_end()
    (pointer,) = told.pointers
    assert Path(pointer["checkpoint"], "meta.json").exists()
