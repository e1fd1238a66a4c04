"""What a sweep has used, and when its budget is used up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tune.config import SweepConfig
from tune.running.spending import Spending
from wm.config.typed_yaml import from_plain
from wm.runs.run_files import open_run_files


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_sweep(tmp_path: Path, **content: Any) -> SweepConfig:
    return from_plain({"out": str(tmp_path), "axes": {"seed": [0]}} | content, SweepConfig, "sweep.yaml")


def test_device_seconds_count_only_while_a_trial_runs_and_survive_a_restart(tmp_path: Path):
    sweep, clock = a_sweep(tmp_path, usd_per_hour=2.0), Clock()
    spending = Spending(sweep, open_run_files(tmp_path), clock)
    for passed, running in ((1800, ["a", "b"]), (1800, ["b"]), (600, [])):
        clock.now += passed
        spending.tick(running)
    assert (spending.seconds, dict(spending.device_seconds)) == (4200, {"a": 1800, "b": 3600})
    assert (spending.usd(), spending.usd("a")) == (3.0, 1.0)
    spending.save()
    clock.now += 5000  # between two commands
    resumed = Spending(sweep, open_run_files(tmp_path), clock)
    clock.now += 100
    resumed.tick(["a"])
    assert (resumed.seconds, resumed.device_seconds["a"]) == (4300, 1900)


def test_each_gpu_of_a_trial_counts(tmp_path: Path):
    sweep, clock = a_sweep(tmp_path, gpus_per_trial=0.5, base={"use_gpu": True}), Clock()
    spending = Spending(sweep, open_run_files(tmp_path), clock)
    clock.now += 100
    spending.tick(["a", "b"])
    assert spending.device_seconds.total() == 100
    assert spending.usd() is None


@pytest.mark.parametrize(
    ("limits", "flops", "message"),
    [
        ({"max_hours": 1}, 0, r"1 hours \(max_hours\) is used up; .* larger --max-hours"),
        ({"max_usd": 3, "usd_per_hour": 3}, 0, r"3 USD \(max_usd\) is used up"),
        ({"max_flops": "2e15"}, 2e15, r"2e\+15 FLOPs of training \(max_flops\) is used up"),
    ],
)
def test_a_budget_says_what_it_was_and_how_to_go_on(tmp_path: Path, limits: dict[str, Any], flops: float, message: str):
    clock = Clock()
    spending = Spending(a_sweep(tmp_path, **limits), open_run_files(tmp_path), clock)
    assert spending.used_up(0.99 * flops) is None
    clock.now += 3601
    spending.tick(["a"])
    found = spending.used_up(flops)
    assert found is not None and re.search(message, found)


def test_a_damaged_account_begins_anew(tmp_path: Path):
    (tmp_path / "spent.json").write_text("{")
    assert Spending(a_sweep(tmp_path), open_run_files(tmp_path)).seconds == 0
