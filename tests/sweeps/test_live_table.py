"""The display of a running sweep: redrawn in a terminal, a line every half minute in a log."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_asha import sums_of

from tune.config import SweepConfig
from tune.running.live_table import LiveTable, accuracy_interval
from tune.running.spending import Spending
from tune.search.trials import Trial, trials_of
from wm.config.typed_yaml import from_plain
from wm.runs.run_files import open_run_files


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def a_table(tmp_path: Path, output: io.StringIO, **content: Any) -> tuple[LiveTable, list[Trial], Clock]:
    base = {"optimizer": {"total_targets": 1_000_000}}
    sweep = from_plain(
        {"out": str(tmp_path), "base": base, "axes": {"size": ["small", "xl"], "seed": [0, 1]}} | content,
        SweepConfig,
        "sweep.yaml",
    )
    clock, trials = Clock(), trials_of(sweep)
    table = LiveTable(sweep, Spending(sweep, open_run_files(sweep.out), clock), output, clock)
    for trial in trials:
        table.add(trial, 1e6, "pending", 0)
    return table, trials, clock


def log_progress(trial: Trial, targets_seen: int, targets_per_s: float) -> None:
    folder = Path(trial.config.out)
    folder.mkdir(parents=True, exist_ok=True)
    row = {"kind": "train", "targets_seen": targets_seen, "targets_per_s": targets_per_s}
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")


def test_a_log_gets_a_line_every_half_minute_with_progress_cost_and_time_left(tmp_path: Path):
    output = io.StringIO()
    table, trials, clock = a_table(tmp_path, output, usd_per_hour=3.6)
    table.set_state(trials[0].name, "running")
    log_progress(trials[0], 100_000, 900.0)
    log_progress(trials[0], 250_000, 1_000.0)
    table.set_evaluation(trials[0].name, 200_000, 10, sums_of(0.6))
    for second in range(1, 65):
        clock.now = float(second)
        table.tick()
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    for expected in (
        "0/4 ended, 1 running", "60 s of devices", "250.0 GFLOP", "0.06 USD", "at most 62 min left",
        "small, seed=0: 250,000 of 1,000,000 targets, 1,000/s, change_acc 0.", "K=10",
    ):  # fmt: skip
        assert expected in lines[1]


def test_a_terminal_shows_a_row_for_each_trial_and_lines_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "30")
    output = Terminal()
    table, trials, clock = a_table(tmp_path, output)
    table.set_state(trials[1].name, "running")
    log_progress(trials[1], 500_000, 2_000.0)
    clock.now = 90.0
    table.tick()
    table.set_state(trials[1].name, "stopped", "number 2 of 2")
    table.close()
    text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    for expected in (
        "trial",
        "targets/s",
        "0.50/1.00 M",
        "running",
        "90 s",
        "4 min",
        "pending",
        "0/4 ended, 1 running",
    ):
        assert expected in text
    assert "small, seed=1: stopped (number 2 of 2)" in text
    assert text.index("seed=1") < text.index("seed=0"), "the running trial comes first"


def test_what_a_trial_used_counts_to_the_moment_in_which_it_ends(tmp_path: Path):
    table, trials, clock = a_table(tmp_path, io.StringIO(), usd_per_hour=3600.0)
    table.set_state(trials[0].name, "running")
    clock.now = 0.5
    table.set_state(trials[0].name, "finished")
    clock.now = 100.0
    table.tick()
    table.close()
    assert json.loads((tmp_path / "spent.json").read_text())["device_seconds"] == {trials[0].name: 0.5}


def test_the_interval_of_an_accuracy_is_that_of_the_games():
    value, half_width = accuracy_interval(sums_of(0.6)) or (0, 0)
    assert value == pytest.approx(0.6, abs=0.03)
    # Standard deviation 0.1 between games and binomial 0.07 within them, over 40 games, times Student's t of 2.02.
    assert half_width == pytest.approx(2.02 * (0.1**2 + 0.07**2) ** 0.5 / 40**0.5, rel=0.25)
    assert accuracy_interval(sums_of(0.6, changes_per_game=0)) is None
