"""Signals to a driver become a file that its workers see; a SIGTERM to a worker stops that process alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import wm.runs.stop_request
from wm.runs.stop_request import STOP_FILE, RunStoppedError, StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_file_until_the_driver_ends(tmp_path, number):
    before = signal.getsignal(number)
    request = StopRequest(tmp_path)
    with request.on_signals():
        assert not request.is_set_for_run()
        os.kill(os.getpid(), number)
        assert request.is_set_for_run()
        assert request.signal == number
        assert StopRequest(tmp_path).is_set()
    assert not request.is_set_for_run()
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_the_driver(tmp_path):
    request = StopRequest(tmp_path)
    with pytest.raises(KeyboardInterrupt), request.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert not request.is_set_for_run()


def test_the_file_of_a_killed_driver_stops_no_later_run(tmp_path):
    (tmp_path / STOP_FILE).touch()
    request = StopRequest(tmp_path)
    with request.on_signals():
        assert not request.is_set_for_run()


def test_a_run_polls_for_the_file_at_intervals(tmp_path, monkeypatch):
    request = StopRequest(tmp_path)
    assert not request.is_set()
    (tmp_path / STOP_FILE).touch()
    assert not request.is_set()
    monkeypatch.setattr(wm.runs.stop_request.time, "monotonic", lambda: 1e12)
    assert request.is_set()


def test_a_driver_outside_the_main_thread_leaves_signals_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def drive() -> None:
        with StopRequest(tmp_path).on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_missing_folder_does_not_stop_a_run(tmp_path):
    request = StopRequest(tmp_path / "gone")
    assert not request.is_set_for_run() and not request.is_set()


def test_sigterm_to_a_worker_stops_the_runs_of_its_process_alone(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from wm.runs.stop_request import StopRequest, request_stop_on_sigterm\n"
        "request_stop_on_sigterm()\nrequest = StopRequest(Path(sys.argv[1]))\nassert not request.is_set()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nassert request.is_set() and not request.is_set_for_run()"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0


def test_the_exit_code_of_a_stopped_run_is_that_of_its_signal():
    script = "from wm.runs.stop_request import RunStoppedError\nraise RunStoppedError(143)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 143
    assert RunStoppedError(130).code == 130
