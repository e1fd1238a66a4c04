"""Trials are runs: how they stop, fail, are retried and resume, in one process or in several workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from snapshots import list_checkpoints
from tiny_sweeps import ENDLESS, seen_by, tiny_sweep, wait_until

from tune.config import SweepConfig
from tune.results.sweep_folder import open_sweep
from tune.running.sweep import run_sweep
from tune.search.trials import trials_of
from wm.runs.stop_request import RUN, STOP_FILE, RunStoppedError

pytestmark = pytest.mark.usefixtures("ray_session")


def folders_of(sweep: SweepConfig) -> list[Path]:
    return [Path(trial.config.out) for trial in trials_of(sweep)]


def states_of(sweep: SweepConfig) -> list[str]:
    manifest = open_sweep(sweep.out)
    return [manifest.status(name).state for name in manifest.trials]


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while a sweep runs in the main thread."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    assert not errors, errors[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_makes_all_running_trials_save_and_starts_no_other(tiny_corpus, tmp_path, capsys, number):
    axes = {"optimizer.learning_rate": [1e-2, 1e-3, 1e-4]}
    sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", ENDLESS, axes=axes)
    *running, pending = folders_of(sweep)

    def send_once_both_train() -> None:
        wait_until(lambda: all(seen_by(folder) > 128 for folder in running))
        os.kill(os.getpid(), number)

    with meanwhile(send_once_both_train), pytest.raises(RunStoppedError) as stopped:
        run_sweep(sweep)
    assert stopped.value.code == 128 + number
    assert all(list_checkpoints(folder / "checkpoints") for folder in running)
    assert states_of(sweep) == ["interrupted", "interrupted", "pending"] and not pending.exists()
    assert "stopped; 2 trials are saved and 1 have not begun" in capsys.readouterr().out
    assert {path.read_bytes() for path in sweep.out.rglob(STOP_FILE)} == {RUN}


def test_a_request_to_one_trial_stops_it_alone_until_the_command_runs_again(tiny_corpus, tmp_path, capsys):
    sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", 2_000, max_concurrent=1)
    first, _ = folders_of(sweep)

    def ask() -> None:
        wait_until((first / STOP_FILE).exists)
        (first / STOP_FILE).write_text("stop\n")

    with meanwhile(ask):
        run_sweep(sweep)
    assert states_of(sweep) == ["interrupted", "finished"]
    assert "stopped by the request in its folder; the same command resumes it" in capsys.readouterr().out
    run_sweep(sweep)
    assert states_of(sweep) == ["finished", "finished"]
