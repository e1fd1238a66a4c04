"""Progress of a run in the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from wm.config.run_config import OptimizerConfig, RunConfig
from wm.runs import console
from wm.runs.console import format_row, print_progress
from wm.runs.run import Run
from wm.runs.run_log import RunLog

CONFIG = RunConfig(optimizer=OptimizerConfig(total_targets=2_000_000))
TRAIN_ROW = {
    "kind": "train", "targets_seen": 520_000, "seconds": 65.0, "loss": 1.2345, "change_acc": 0.412,
    "targets_per_s": 8_012.0,
}  # fmt: skip


def run_in(folder: Path) -> Run:
    """A run in a folder."""
    return Run(RunConfig(out=folder))


def test_a_progress_line_shows_targets_speed_quality_and_time_left():
    line = format_row(TRAIN_ROW, CONFIG)
    assert line == "    0.52 of 2.00 M targets      8,012/s  loss  1.234  change_acc 0.412  3 min left"
    with_more = format_row(TRAIN_ROW | {"wait_share": 0.031, "peak_gb": 2.34, "data": "resident"}, CONFIG)
    assert with_more == f"{line}  wait 3%  2.3 GB  resident"
    on_gpu = format_row(TRAIN_ROW | {"peak_gb": 2.34, "device_peak_gb": 61.0}, CONFIG)
    assert on_gpu.endswith("61.0 GB")


@pytest.mark.parametrize("total", [2_000_000, 33_000_000_000, 10**15])
def test_a_progress_line_has_less_than_120_characters(total):
    config = RunConfig(optimizer=OptimizerConfig(total_targets=total))
    row = TRAIN_ROW | {"targets_seen": total - 1, "targets_per_s": 1_234_567.0}
    row |= {"wait_share": 1.0, "peak_gb": 139.9, "data": "resident"}
    assert len(format_row(row, config)) < 120


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"kind": "problem", "message": "a disk\nis full"}, "   warning a disk is full"),
        (
            {
                "kind": "rollback",
                "targets_seen": 9_000,
                "to_targets": 5_000,
                "reason": "the loss spiked",
                "rate_factor": 0.3,
            },
            "  rollback from 9,000 to 5,000 targets, learning rate x 0.3: the loss spiked",
        ),
        (
            {"kind": "checkpoint", "targets_seen": 9_000, "seconds_held": 0.012},
            "checkpoint at 9,000 targets, training paused for 12 ms",
        ),
    ],
)
def test_each_kind_of_row_has_its_line(row, expected):
    assert format_row(row, CONFIG) == expected


@pytest.fixture
def printed(capsys, monkeypatch) -> Callable[[], str]:
    """What has been printed so far, by looks at the log that follow each other closely."""
    monkeypatch.setattr(console, "POLL_SECONDS", 0.05)
    parts = []

    def so_far() -> str:
        parts.append(capsys.readouterr().out)
        return "".join(parts)

    return so_far


def test_rows_are_printed_once_also_if_a_resumed_run_replaces_the_log_by_a_shorter_one(tmp_path, printed):
    earlier = RunLog(tmp_path, 0)
    earlier.write({"kind": "problem", "targets_seen": 0, "message": "before"})
    with print_progress(run_in(tmp_path)):
        for number in (1, 2, 3):
            earlier.write({"kind": "checkpoint", "targets_seen": 1_000 * number, "seconds_held": 0.0})
        wait_until(lambda: "at 3,000 targets" in printed(), "the last row")
        earlier.close()
        again = RunLog(tmp_path, 1_000)
        again.write({"kind": "problem", "message": "a worker crashed"})
        again.write({"kind": "checkpoint", "targets_seen": 2_500, "seconds_held": 0.0})
        (tmp_path / "log.jsonl").open("a").write('nonsense\n{"kind": "train"}\n')
        again.close()
    assert [line.split(" targets")[0] for line in printed().splitlines()] == [
        "checkpoint at 1,000", "checkpoint at 2,000", "checkpoint at 3,000", "   warning a worker crashed",
        "checkpoint at 2,500",
    ]  # fmt: skip


def test_rows_are_printed_again_after_the_log_was_away(tmp_path, printed, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    log = RunLog(out, 0)
    new_rows, has_looked = console._LogTail.new_rows, threading.Event()

    def look(tail: console._LogTail) -> list[dict[str, Any]]:
        is_away = not out.exists()
        found = new_rows(tail)
        if is_away:
            has_looked.set()
        return found

    monkeypatch.setattr(console._LogTail, "new_rows", look)
    with print_progress(run_in(out)):
        log.write({"kind": "problem", "message": "first"})
        wait_until(lambda: "first" in printed(), "the first row")
        out.rename(tmp_path / "away")
        assert has_looked.wait(120)
        (tmp_path / "away").rename(out)
        log.write({"kind": "problem", "message": "second"})
        log.close()
    assert printed() == "   warning first\n   warning second\n"


def test_a_row_that_a_resumed_run_writes_again_is_printed_again(tmp_path, printed):
    start = {
        "kind": "start", "batch_size": 8, "learning_rate": 1e-3, "warmup_targets": 100, 
        "targets_seen": 0, "num_parameters": 1, "workers": 1, "device": "cpu", 
        "train_games": 1,
        "train_frames": 1, "judged_games": 1,
    }  # fmt: skip
    with print_progress(run_in(tmp_path)):
        for number in (1, 2):
            log = RunLog(tmp_path, 0)
            log.write(start)
            log.write({"kind": "checkpoint", "targets_seen": 100 * number, "seconds_held": 0.0})
            log.close()
            wait_until(lambda last=f"at {100 * number} targets": last in printed(), "the last row")
    lines = [line.split()[0] for line in printed().splitlines()]
    assert lines == ["0.0", "checkpoint"] * 2
