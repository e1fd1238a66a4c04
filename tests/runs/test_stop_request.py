"""Signals to a driver become a request that rank 0 sees; a SIGTERM to a worker stops that process alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import wait_until

from wm.runs.run_files import LocalRunFiles
from wm.runs.stop_request import POLL_SECONDS, STOP_FILE, RunStoppedError, StopRequest


def request_in(folder: Path) -> StopRequest:
    """The stop request of a run in a folder."""
    return StopRequest(LocalRunFiles(folder))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_becomes_a_request_until_the_driver_ends(tmp_path, number):
    before = signal.getsignal(number)
    request, of_worker = request_in(tmp_path), request_in(tmp_path)
    with request.on_signals(), of_worker.watched():
        assert not of_worker.is_set() and not request.is_set_for_run()
        os.kill(os.getpid(), number)
        wait_until(of_worker.is_set, "the request")
        assert request.signal == number
    assert POLL_SECONDS <= 0.5  # `ray job stop` kills after three seconds
    assert not request.is_set_for_run()
    assert signal.getsignal(number) == before


def test_the_request_changes_a_file_that_exists_since_the_start_and_is_not_replaced(tmp_path):
    """A network file system shows new content at once, but new and replaced files after half a minute."""
    request = request_in(tmp_path)
    with request.on_signals():
        before = (tmp_path / STOP_FILE).stat()
        request.request()
        during = (tmp_path / STOP_FILE).stat()
    after = (tmp_path / STOP_FILE).stat()
    assert before.st_ino == during.st_ino == after.st_ino
    assert before.st_size == during.st_size  # a full disk can take it


def test_a_second_ctrl_c_ends_the_driver(tmp_path):
    request = request_in(tmp_path)
    with pytest.raises(KeyboardInterrupt), request.on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert not request.is_set_for_run()


def test_a_request_that_cannot_be_written_is_reported_and_tried_again(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    request = request_in(out)
    with request.on_signals():
        out.rename(tmp_path / "away")
        os.kill(os.getpid(), signal.SIGTERM)
        reported = ""

        def is_reported() -> bool:
            nonlocal reported
            reported += capsys.readouterr().err
            return "stop cannot be written" in reported

        wait_until(is_reported, "the report")
        (tmp_path / "away").rename(out)
        wait_until(request.is_set_for_run, "the request")


def test_the_request_to_a_killed_driver_stops_no_later_run(tmp_path):
    request_in(tmp_path).request()
    request = request_in(tmp_path)
    with request.on_signals():
        assert not request.is_set_for_run()


def test_a_driver_outside_the_main_thread_leaves_signals_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def drive() -> None:
        with request_in(tmp_path).on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_missing_folder_does_not_stop_a_run(tmp_path):
    request = request_in(tmp_path / "gone")
    with request.watched():
        assert not request.is_set_for_run() and not request.is_set()


def test_storage_that_hangs_does_not_delay_training(tmp_path, monkeypatch):
    is_over, request, answered = threading.Event(), request_in(tmp_path), []

    def hang(*_: object) -> bytes:
        is_over.wait(60)
        answered.append(1)
        return b""

    monkeypatch.setattr(LocalRunFiles, "read", hang)
    with request.watched():
        assert not request.is_set()
    assert not answered
    is_over.set()


def test_sigterm_to_a_worker_stops_the_runs_of_its_process_alone(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom wm.runs.run_files import LocalRunFiles\n"
        "from wm.runs.stop_request import StopRequest, request_stop_on_sigterm\n"
        "request_stop_on_sigterm()\nrequest = StopRequest(LocalRunFiles(Path(sys.argv[1])))\n"
        "assert not request.is_set()\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "assert request.is_set() and not request.is_set_for_run()"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == 0


def test_the_exit_code_of_a_stopped_run_is_that_of_its_signal():
    script = "from wm.runs.stop_request import RunStoppedError\nraise RunStoppedError(143)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 143
    assert RunStoppedError(130).code == 130
