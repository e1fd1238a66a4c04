"""Signals to a driver become a file that its workers see; a worker's own SIGTERM is its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import wm.runs.stop_request
from wm.runs.stop_request import STOP_FILE, Interruption, RunStoppedError, is_told, stopping_on_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_file_that_goes_with_the_driver(tmp_path, number):
    before = signal.getsignal(number)
    with stopping_on_signals(tmp_path) as told:
        assert not is_told(tmp_path)
        os.kill(os.getpid(), number)
        assert is_told(tmp_path)
        assert told.signal == number
        assert Interruption(tmp_path)
    assert not is_told(tmp_path)
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_the_driver(tmp_path):
    with pytest.raises(KeyboardInterrupt), stopping_on_signals(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert not is_told(tmp_path)


def test_a_file_that_a_killed_driver_left_stops_nobody(tmp_path):
    (tmp_path / STOP_FILE).touch()
    with stopping_on_signals(tmp_path):
        assert not is_told(tmp_path)


def test_a_run_looks_for_the_file_now_and_then_only(tmp_path, monkeypatch):
    interruption = Interruption(tmp_path)
    assert not interruption
    (tmp_path / STOP_FILE).touch()
    assert not interruption
    monkeypatch.setattr(wm.runs.stop_request.time, "monotonic", lambda: 1e12)
    assert interruption


def test_a_driver_in_another_thread_leaves_signals_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def drive() -> None:
        with stopping_on_signals(tmp_path):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_folder_that_is_gone_does_not_stop_a_run(tmp_path):
    assert not is_told(tmp_path / "gone")
    assert not Interruption(tmp_path / "gone")


def test_a_workers_sigterm_tells_the_runs_of_its_process_alone(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from wm.runs.stop_request import Interruption, is_told, tell_this_process_on_sigterm\n"
        "tell_this_process_on_sigterm()\nout = Path(sys.argv[1])\nassert not Interruption(out)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nassert Interruption(out) and not is_told(out)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0


def test_the_exit_code_of_a_stopped_run_is_that_of_its_signal():
    script = "from wm.runs.stop_request import RunStoppedError\nraise RunStoppedError(143)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 143
    assert RunStoppedError(130).code == 130
