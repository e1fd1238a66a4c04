"""Errors of workers on Ray, for the user: one line with the cause, without Ray's wrappers."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
from collections.abc import Iterator

import ray

from datasets.runtime.errors import UserError, WorkerError


@contextlib.contextmanager
def reraise_worker_errors() -> Iterator[None]:
    """Raise a worker's UserError or error of the operating system as such, and any other as a WorkerError."""
    try:
        yield
    except ray.exceptions.RayError as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, UserError):
                raise UserError(str(cause)) from error
            if isinstance(cause, OSError) and cause.errno is not None:
                raise OSError(cause.errno, cause.strerror, cause.filename) from error
        with tempfile.NamedTemporaryFile("w", prefix="wm-worker-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
        raise WorkerError(
            f"a worker failed ({_text(causes[0] if causes else error)}); traceback: {file.name}"
        ) from error


def _text(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions that led to an error, Ray's wrappers left out: a wrapper is an instance of its cause's class."""
    if isinstance(error, BaseException):
        if not isinstance(error, ray.exceptions.RayError):
            yield error
        yield from _causes(getattr(error, "cause", None))
        yield from _causes(error.__cause__)
