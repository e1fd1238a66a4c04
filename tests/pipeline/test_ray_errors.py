"""Errors of workers on Ray: what the user can fix is reported without Ray's wrappers."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError

from datasets.pipeline.worker_errors import reraise_worker_errors
from datasets.runtime.errors import UserError, WorkerError


class InternalError(Exception):
    """Stands for what Ray Data sets as the cause of an error that it does not know."""


def raised_by_a_worker(error: Exception) -> RayTaskError:
    """An exception of a worker as the driver receives it."""
    return cloudpickle.loads(
        cloudpickle.dumps(RayTaskError("task", "Traceback of the worker", error))
    ).as_instanceof_cause()


def test_a_user_error_of_a_worker_is_raised_with_its_own_message():
    with pytest.raises(UserError, match=r"^node 7 cannot see the replays$"), reraise_worker_errors():
        raise raised_by_a_worker(UserError("node 7 cannot see the replays")) from InternalError()


def test_a_full_disk_in_a_worker_is_raised_as_the_operating_systems_error():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as raised, reraise_worker_errors():
        raise raised_by_a_worker(full) from InternalError()
    assert (type(raised.value), raised.value.errno) == (OSError, errno.ENOSPC)


def test_any_other_error_of_a_worker_is_one_line_with_its_cause_and_a_file_with_its_traceback():
    with (
        pytest.raises(WorkerError, match=r"^a worker failed \(ValueError: a bug\); ") as raised,
        reraise_worker_errors(),
    ):
        raise raised_by_a_worker(ValueError("a bug"))
    traceback_file = Path(str(raised.value).rpartition(" ")[2])
    assert "RayTaskError(ValueError)" in traceback_file.read_text()
    traceback_file.unlink()
