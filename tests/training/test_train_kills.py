"""`wm train` is killed at random moments and resumes: the final weights are bitwise those of an undisturbed run.

The short version of `make faults`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from train_kills import (
    KINDS,
    Hit,
    differences,
    printed_by,
    resumed_at,
    run_trials,
    small_corpus,
    tiny_run,
    trial,
)

from wm.data.training_data import open_data
from wm.launch.train_worker import work
from wm.runs.run import Run
from wm.training.trainer import train

NUM_UPDATES = 400


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of a few seconds on a synthetic corpus."""
    folder = tmp_path_factory.mktemp("train-kills")
    return tiny_run(small_corpus(folder), folder / "undisturbed", NUM_UPDATES)


@pytest.fixture
def threads_of_a_worker(config):
    """As many threads as a worker has: the order of some sums depends on their number, and with it the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("threads_of_a_worker")
def test_preemptions_a_killed_worker_and_a_killed_driver_change_no_bit_of_the_weights(config):
    run = Run(config)
    run.claim()
    train(run, open_data(config), lambda rows: None, None)

    disturbed = replace(config, out=config.out.parent / "disturbed", max_failures=1)  # a preemption is no failure
    killed = trial(
        disturbed,
        Hit(kind="notice", at_targets=5_000),
        Hit(kind="worker", at_targets=12_000),
        Hit(kind="driver", at_targets=20_000),
        gone_seconds=0,
    )
    assert killed.exit_code == -9
    stopped = trial(disturbed, Hit(kind="term", at_targets=30_000), gone_seconds=0)
    assert stopped.exit_code == 143
    printed = printed_by(disturbed).read_text().splitlines()[-1]
    assert printed == f"stopped at {stopped.resumed_at:,} targets, saved; run the same command again to resume"
    assert stopped.resumed_at >= stopped.targets_seen
    work(Run(disturbed), "the last command")  # without Ray, whose start and end take half a minute
    starts = resumed_at(disturbed)
    assert starts == sorted(starts) and len(starts) == 5 and starts[-1] == stopped.resumed_at
    assert differences(config, disturbed) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kills_at_four_moments_change_no_bit_of_the_weights(config, kind, tmp_path):
    trials = run_trials(replace(config, out=tmp_path / "undisturbed"), [kind], 4, seed=4)
    assert len(trials) == 4
    assert all(one["is_same"] for one in trials)
    assert any(one["was_running"] for one in trials)
