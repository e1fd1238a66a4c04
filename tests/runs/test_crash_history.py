"""A run that crashes twice at the same place is not started a third time, and reports why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wm.runs.crash_history import ATTEMPTS_FILE, CRASH_FILE, Attempt, CrashHistory, repeated_crash
from wm.runs.run_files import LocalRunFiles


def attempt(resumed_at: int, reached: int, error: str | None = None, is_preempted: bool = False) -> Attempt:
    return Attempt(resumed_at=resumed_at, reached=reached, error=error, is_preempted=is_preempted)


def log_at(out: Path, *targets: int) -> None:
    """Write the log of a run that reached some targets."""
    rows = [{"kind": "train", "targets_seen": seen, "targets_per_s": 100.0} for seen in targets]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_crashes_at_one_place_are_a_diagnosis_with_the_last_error():
    past = [attempt(1_000, 5_000), attempt(1_000, 5_100, "ValueError: bad row")]
    diagnosis = repeated_crash(past, 1_000, slack_targets=200)
    assert diagnosis == "the run crashed 2 times at about 5,100 targets (ValueError: bad row)"


def test_a_worker_killed_without_a_traceback_probably_ran_out_of_memory():
    assert "out of memory" in str(repeated_crash([attempt(0, 500), attempt(0, 500)], 0, slack_targets=0))


@pytest.mark.parametrize(
    ("why", "past", "resumes_at"),
    [
        ("a single crash", [attempt(0, 500)], 0),
        ("a newer checkpoint since", [attempt(0, 500), attempt(0, 500)], 400),
        (
            "two places, one error, a checkpoint in between",
            [attempt(0, 500, "OSError"), attempt(400, 900, "OSError")],
            400,
        ),
        ("two places", [attempt(0, 500), attempt(0, 5_000)], 0),
        ("two places and errors", [attempt(0, 500, "OSError: a"), attempt(0, 5_000, "OSError: b")], 0),
        ("a preemption", [attempt(0, 500), attempt(0, 500, is_preempted=True)], 0),
    ],
)
def test_other_crashes_are_retried(why, past, resumes_at):
    assert repeated_crash(past, resumes_at, slack_targets=200) is None, why


def test_the_same_exception_counts_wherever_it_was_raised():
    past = [attempt(0, 500, "OSError: no space"), attempt(0, 50_000, "OSError: no space")]
    assert repeated_crash(past, 0, slack_targets=10) is not None


def test_a_checkpoint_between_two_crashes_at_one_place_is_no_progress():
    assert repeated_crash([attempt(0, 500), attempt(400, 500)], 400, slack_targets=10) is not None


def test_only_the_last_two_crashes_count():
    past = [attempt(0, 500), attempt(0, 500), attempt(400, 900)]
    assert repeated_crash(past, 800, slack_targets=10) is None


def test_attempts_are_read_back_from_the_runs_folder(tmp_path):
    history = CrashHistory(LocalRunFiles(tmp_path), "first")
    history.record_start(0)
    log_at(tmp_path, 100, 200)
    history.record_crash(RuntimeError("Connection closed by peer [127.0.0.1]"), rank=0)
    history.record_crash(ValueError("a line\nthe last line"), rank=1)
    assert history.attempts() == [attempt(0, 200, "ValueError: the last line")]
    history.record_start(150)
    # It crashed before it logged a line: the log is that of the attempt before.
    assert history.attempts() == [attempt(0, 200, "ValueError: the last line"), attempt(150, 150)]
    history.record_preemption()
    assert history.attempts()[1] == attempt(150, 150, is_preempted=True)
    crash = (tmp_path / CRASH_FILE).read_text()
    assert "ValueError: a line" in crash and "worker 1" in crash


def test_a_repeated_command_begins_a_new_history(tmp_path):
    first = CrashHistory(LocalRunFiles(tmp_path), "first")
    first.record_start(0)
    first.record_start(0)
    assert CrashHistory(LocalRunFiles(tmp_path), "second").attempts() == []
    assert len(first.attempts()) == 2


def test_errors_of_workers_that_lost_another_one_are_not_the_cause(tmp_path):
    history = CrashHistory(LocalRunFiles(tmp_path), "one")
    history.record_start(0)
    history.record_crash(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), rank=0)
    assert history.attempts() == [attempt(0, 0, None)]


def test_half_a_line_and_a_missing_folder_raise_nothing(tmp_path):
    history = CrashHistory(LocalRunFiles(tmp_path), "one")
    history.record_start(7)
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"command": "one", "ev')
    assert history.attempts() == [attempt(7, 7)]
    lost = CrashHistory(LocalRunFiles(tmp_path / "gone"), "one")
    lost.record_start(0)
    lost.record_crash(ValueError("x"), rank=0)
    assert lost.attempts() == []


def test_a_line_after_half_a_line_is_read(tmp_path):
    history = CrashHistory(LocalRunFiles(tmp_path), "one")
    history.record_start(7)
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"command": "one", "ev')
    history.record_start(9)
    assert [attempt.resumed_at for attempt in history.attempts()] == [7, 9]


def test_crashes_less_than_a_progress_line_apart_are_at_the_same_place(tmp_path):
    history = CrashHistory(LocalRunFiles(tmp_path), "one")
    for reached in (1_000, 1_600):
        history.record_start(0)
        log_at(tmp_path, reached)
    assert history.repeated_crash(0, log_every_s=5.0) is not None  # 1.5 x 100 targets a second x 5 s
    assert history.repeated_crash(0, log_every_s=3.0) is None
