"""A run that dies twice at the same place is not started a third time, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wm.runs.crash_history import ATTEMPTS_FILE, CRASH_FILE, Attempt, Attempts, repeated_crash, targets_between_lines


def attempt(resumed_at: int, reached: int, words: str | None = None, is_preempted: bool = False) -> Attempt:
    return Attempt(resumed_at=resumed_at, reached=reached, words=words, is_preempted=is_preempted)


def log_at(out: Path, *targets: int) -> None:
    """What the log of a run that came so far looks like."""
    rows = [{"kind": "train", "targets_seen": seen, "targets_per_s": 100.0} for seen in targets]
    (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_two_deaths_at_one_place_are_a_diagnosis_with_the_last_words():
    past = [attempt(1_000, 5_000), attempt(1_000, 5_100, "ValueError: bad row")]
    said = repeated_crash(past, 1_000, slack_targets=200)
    assert said == "the run died 2 times at about 5,100 targets (last words: ValueError: bad row)"


def test_a_worker_that_was_killed_without_a_word_is_told_so():
    assert "out of memory" in str(repeated_crash([attempt(0, 500), attempt(0, 500)], 0, slack_targets=0))


@pytest.mark.parametrize(
    ("why", "past", "resumes_at"),
    [
        ("one death only", [attempt(0, 500)], 0),
        ("a newer checkpoint since", [attempt(0, 500), attempt(0, 500)], 400),
        (
            "two places, one reason, a checkpoint between",
            [attempt(0, 500, "OSError"), attempt(400, 900, "OSError")],
            400,
        ),
        ("two places", [attempt(0, 500), attempt(0, 5_000)], 0),
        ("two places and reasons", [attempt(0, 500, "OSError: a"), attempt(0, 5_000, "OSError: b")], 0),
        ("a machine that went", [attempt(0, 500), attempt(0, 500, is_preempted=True)], 0),
    ],
)
def test_other_deaths_are_tried_again(why, past, resumes_at):
    assert repeated_crash(past, resumes_at, slack_targets=200) is None, why


def test_the_same_exception_counts_wherever_it_was_raised():
    past = [attempt(0, 500, "OSError: no space"), attempt(0, 50_000, "OSError: no space")]
    assert repeated_crash(past, 0, slack_targets=10) is not None


def test_a_checkpoint_between_two_deaths_is_no_progress_where_both_came_as_far():
    assert repeated_crash([attempt(0, 500), attempt(400, 500)], 400, slack_targets=10) is not None


def test_only_the_last_two_deaths_count():
    past = [attempt(0, 500), attempt(0, 500), attempt(400, 900)]
    assert repeated_crash(past, 800, slack_targets=10) is None


def test_attempts_are_read_back_from_the_runs_folder(tmp_path):
    attempts = Attempts(tmp_path, "first")
    attempts.begin(0)
    log_at(tmp_path, 100, 200)
    attempts.died(RuntimeError("Connection closed by peer [127.0.0.1]"), rank=0)
    attempts.died(ValueError("a line\nthe last line"), rank=1)
    assert attempts.past() == [attempt(0, 200, "ValueError: the last line")]
    attempts.begin(150)
    # It died before it wrote a line: what the log says is from the attempt before.
    assert attempts.past() == [attempt(0, 200, "ValueError: the last line"), attempt(150, 150)]
    attempts.preempted()
    assert attempts.past()[1] == attempt(150, 150, is_preempted=True)
    crash = (tmp_path / CRASH_FILE).read_text()
    assert "ValueError: a line" in crash and "worker 1" in crash


def test_a_command_that_is_typed_again_begins_anew(tmp_path):
    first = Attempts(tmp_path, "first")
    first.begin(0)
    first.begin(0)
    assert Attempts(tmp_path, "second").past() == []
    assert len(first.past()) == 2


def test_words_of_workers_that_only_lost_another_one_are_no_reason(tmp_path):
    attempts = Attempts(tmp_path, "one")
    attempts.begin(0)
    attempts.died(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), rank=0)
    assert attempts.past() == [attempt(0, 0, None)]


def test_half_a_line_and_a_missing_folder_are_no_reason_to_fail(tmp_path):
    attempts = Attempts(tmp_path, "one")
    attempts.begin(7)
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"command": "one", "ev')
    assert attempts.past() == [attempt(7, 7)]
    lost = Attempts(tmp_path / "gone", "one")
    lost.begin(0)
    lost.died(ValueError("x"), rank=0)
    assert lost.past() == []


def test_a_line_after_half_a_line_is_read(tmp_path):
    attempts = Attempts(tmp_path, "one")
    attempts.begin(7)
    with (tmp_path / ATTEMPTS_FILE).open("a") as file:
        file.write('{"command": "one", "ev')
    attempts.begin(9)
    assert [one.resumed_at for one in attempts.past()] == [7, 9]


def test_what_a_run_does_between_two_lines_is_its_last_speed(tmp_path):
    assert targets_between_lines(tmp_path, 5.0) == 0
    log_at(tmp_path, 100, 200)
    assert targets_between_lines(tmp_path, 5.0) == 1.5 * 100.0 * 5.0
