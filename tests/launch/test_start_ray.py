"""Ray on this machine starts, or fails in one line."""

from __future__ import annotations

import pytest

from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_or_retry


@pytest.fixture
def failing():
    """Makes a start that fails so many times, and counts its calls."""

    def make(num_failures: int, kind: type[Exception] = Exception):
        calls: list[int] = []

        def start() -> None:
            calls.append(len(calls))
            if len(calls) <= num_failures:
                raise kind("The node timed out.\nsee its logs")

        return start, calls

    return make


def test_a_start_that_fails_once_on_a_busy_machine_is_tried_again(failing, tmp_path, capsys):
    start, calls = failing(1)
    start_or_retry(start, tmp_path)
    assert len(calls) == 2
    assert capsys.readouterr().err == "Ray did not start (The node timed out.); trying once more\n"


def test_a_start_that_fails_twice_is_an_error_in_one_line(failing, tmp_path):
    start, calls = failing(2)
    with pytest.raises(UserError, match=r"^Ray did not start on this machine \(The node timed out\.\); run the same"):
        start_or_retry(start, tmp_path)
    assert len(calls) == 2


def test_a_setting_that_ray_cannot_use_is_not_tried_again(failing, tmp_path, capsys):
    start, calls = failing(2, ValueError)
    with pytest.raises(UserError, match="Ray did not start on this machine"):
        start_or_retry(start, tmp_path)
    assert len(calls) == 1 and capsys.readouterr().err == ""
