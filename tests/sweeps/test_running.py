"""Trials are runs: how they stop, fail, are retried and resume, in one process or in several workers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from snapshots import list_checkpoints
from tiny_sweeps import ENDLESS, TOTAL, seen_by, tiny_sweep
from waiting import wait_until

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.results.rung_record import decisions_of
from tune.results.sweep_folder import SWEEP_FILE, SWEEP_LOCK, lock_sweep, open_sweep
from tune.results.trial_status import FAILED_FILE, failure_of, status_at
from tune.running.sweep import run_sweep
from tune.running.trial_process import failure_of_error
from tune.search.trials import trials_of
from wm.evaluation.metrics import METRICS
from wm.launch.ray_reporter import flattened, rows_of_report
from wm.launch.train_worker import RepeatedCrashError
from wm.runs.crash_history import NO_TRACEBACK
from wm.runs.run import DRIVER_LOCK, Run
from wm.runs.run_files import open_run_files
from wm.runs.run_log import read_log
from wm.runs.stop_request import RUN, STOP_FILE, RunStoppedError
from wm.training.divergence import DivergedError
from wm.training.memory_check import InsufficientMemoryError

pytestmark = pytest.mark.usefixtures("ray_session")


def folders_of(sweep: SweepConfig) -> list[Path]:
    return [Path(trial.config.out) for trial in trials_of(sweep)]


def num_starts(folder: Path) -> int:
    """How often a trial's training started."""
    return len([row for row in read_log(folder) if row["kind"] == "start"])


def process_of(folder: Path) -> int:
    """Process id of what trains a trial, by the file that it has open."""
    lock = str(folder / DRIVER_LOCK)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(file.path == lock for file in process.open_files()):
                return process.pid
    raise AssertionError(f"no process trains {folder}")


def states_of(sweep: SweepConfig) -> list[str]:
    manifest = open_sweep(sweep.out)
    return [manifest.status(name).state for name in manifest.trials]


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while a sweep runs in the main thread, which is stopped if that fails."""
    errors: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)
            if not is_over.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        if errors:
            raise errors[0]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["Ctrl-C", "SIGTERM"]
)
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


@pytest.mark.slow
def test_a_request_to_one_trial_stops_it_alone_and_the_next_command_resumes_it_from_its_newest_intact_checkpoint(
    tiny_corpus, tmp_path, capsys
):
    place = tmp_path / "checkpoints"
    base = {"checkpoint": {"storage_path": str(place), "every_s": 0.0}}
    axes = {"length": {"long": {"optimizer.total_targets": 20_000}, "short": {"optimizer.total_targets": 512}}}
    sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", max_concurrent=1, base=base, axes=axes)
    first, second = folders_of(sweep)

    def ask() -> None:
        wait_until(lambda: bool(list_checkpoints(place / first.name)))
        (first / STOP_FILE).write_text("stop\n")

    with meanwhile(ask):
        run_sweep(sweep)
    assert states_of(sweep) == ["interrupted", "finished"]
    assert "stopped by the request in its folder; the same command resumes it" in capsys.readouterr().out
    assert {folder.name for folder in place.iterdir()} == {first.name, second.name}
    assert not (first / "checkpoints").exists()

    newest = list_checkpoints(place / first.name)[-1]
    damaged = shutil.copytree(newest, newest.with_name("targets-000000019999"))
    (damaged / "model.safetensors").write_bytes(b"damaged")
    run_sweep(sweep)
    assert states_of(sweep) == ["finished", "finished"]
    problems = [row["message"] for row in read_log(first) if row["kind"] == "problem"]
    assert any(damaged.name in problem for problem in problems)


@pytest.mark.slow
def test_a_trial_that_diverges_fails_alone_with_its_reason_and_runs_again_only_if_asked(tiny_corpus, tmp_path, capsys):
    axes = {"optimizer.learning_rate": [1e-2, 1e30]}
    base = {"divergence": {"action": "stop"}}
    sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", axes=axes, base=base)
    _, diverging = folders_of(sweep)
    run_sweep(sweep)
    printed = capsys.readouterr().out
    assert states_of(sweep) == ["finished", "failed"]
    assert "Last result" not in printed  # nothing of Tune's own
    assert "failed: learning_rate=1e+30 (diverged: the " in printed and "is not finite" in printed
    assert re.search(r"K = \d+ is (enough|needed)|Not decided|No choice of K", printed), "from the trial that ended"

    starts = len([row for row in read_log(diverging) if row["kind"] == "start"])
    run_sweep(sweep)
    assert "2 of them ended before" in capsys.readouterr().out
    run_sweep(sweep, retry_failed=True)
    assert "1 of them ended before" in capsys.readouterr().out
    assert states_of(sweep) == ["finished", "failed"]
    assert len([row for row in read_log(diverging) if row["kind"] == "start"]) == starts + 1 or starts == 1


@pytest.mark.slow
def test_a_trial_whose_process_dies_resumes_until_it_died_too_often(tiny_corpus, tmp_path, capsys):
    sweep = tiny_sweep(
        tiny_corpus, tmp_path / "sweep", ENDLESS, base={"max_failures": 1, "checkpoint": {"every_s": 0.0}}
    )
    killed, other = folders_of(sweep)

    def kill_twice() -> None:
        wait_until(lambda: num_starts(killed) == 1 and seen_by(killed) > 1_000)
        os.kill(process_of(killed), signal.SIGKILL)
        wait_until(lambda: num_starts(killed) == 2)
        os.kill(process_of(killed), signal.SIGKILL)
        wait_until((killed / FAILED_FILE).exists)
        os.kill(process_of(other), signal.SIGKILL)
        wait_until(lambda: num_starts(other) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(kill_twice), pytest.raises(RunStoppedError):
        run_sweep(sweep)
    assert states_of(sweep) == ["failed", "interrupted"]
    resumed_at = [row["targets_seen"] for row in read_log(killed) if row["kind"] == "start"]
    assert resumed_at[-1] > 0
    failure = failure_of(open_run_files(killed))
    assert failure is not None and failure.kind == "died"
    assert failure.reason.startswith("died 2 times, last at about ")


@pytest.mark.slow
def test_a_trial_of_several_workers_reports_each_validation(tiny_corpus, tmp_path):
    axes = {"optimizer.learning_rate": [1e-2]}
    sweep = tiny_sweep(tiny_corpus, tmp_path / "sweep", axes=axes, base={"num_workers": 2})
    run_sweep(sweep)
    (folder,) = folders_of(sweep)
    assert states_of(sweep) == ["finished"]
    assert [row["workers"] for row in read_log(folder) if row["kind"] == "start"] == [2]


@pytest.mark.slow
def test_asha_stops_a_trial_of_several_workers(tiny_corpus, tmp_path):
    sweep = tiny_sweep(
        tiny_corpus,
        tmp_path / "sweep",
        axes={"optimizer.learning_rate": [1e-2, 1e-9]},
        asha={"grace": 128, "metric": "val_loss", "context": 5, "confidence": 0.51, "reduction_factor": 2},
        max_concurrent=1,
        base={"num_workers": 2},
    )
    run_sweep(sweep)
    assert states_of(sweep) == ["finished", "stopped"]
    first, second = folders_of(sweep)
    assert [decision.targets_seen for decision in decisions_of(open_run_files(first))] == [128, 256]
    assert [decision.stops for decision in decisions_of(open_run_files(second))] == [True]


def test_a_report_of_ray_train_holds_the_rows_of_a_validation():
    rows = [
        {"context": context, "targets_seen": 5, "seconds": 1.0, "num_targets": 7, "epochs": 0.5}
        | {name: value for name, value in zip(METRICS, (0.1, None, 0.3, 0.4), strict=True)}
        for context in (1, 60, "stream")
    ]
    assert rows_of_report(flattened(rows)) == rows


def test_two_commands_in_one_folder_exclude_each_other_in_one_line(tiny_corpus, tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom datasets.runtime.errors import UserError\n"
        "from tune.results.sweep_folder import lock_sweep\n"
        "try:\n    lock_sweep(Path(sys.argv[1]))\nexcept UserError as error:\n    print(error)"
    )
    with lock_sweep(tmp_path / "sweep"):
        second = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "sweep")], capture_output=True, text=True, check=True
        )
    assert second.stdout == f"another process runs a sweep in {tmp_path}/sweep; wait for it, or name another --out\n"


def test_what_a_kill_or_a_full_disk_leaves_in_a_new_folder_locks_nobody_out(tmp_path):
    for name in (SWEEP_LOCK, STOP_FILE, f".{SWEEP_FILE}.4711"):
        (tmp_path / name).touch()
    lock_sweep(tmp_path).close()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is not a sweep"):
        lock_sweep(tmp_path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DivergedError("the loss is not finite"), "diverged"),
        (InsufficientMemoryError("an update of 8 examples does not fit"), "out of memory"),
        (RepeatedCrashError("crashed 2 times (OutOfMemoryError: CUDA out of memory)"), "out of memory"),
        (RepeatedCrashError(f"crashed 2 times ({NO_TRACEBACK})"), "died"),
        (UserError("no corpus at this path"), "user error"),
    ],
)
def test_a_failure_has_a_kind(error, kind):
    assert failure_of_error(error).kind == kind


def test_a_trained_trial_is_finished_only_when_it_was_evaluated_as_its_config_says(tiny_corpus, tmp_path):
    config = trials_of(tiny_sweep(tiny_corpus, tmp_path / "sweep"))[0].config
    run = Run(config)
    run.claim()
    meta = {"targets_seen": TOTAL, "seconds": 1.0, "finished": True, "evaluated": config.final_evaluation}
    assert status_at(run, meta).state == "finished"
    assert status_at(run, meta | {"finished": False}).state == "interrupted"
    assert status_at(run, meta | {"evaluated": {}}).state == "interrupted"
    assert status_at(run, meta | {"targets_seen": TOTAL - 1}).state == "interrupted"
