"""Errors of the user, and reasons to reject an input."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """A user's mistake. Its message is one line: what was found, what was expected, what to do. Exit code 2."""


class WorkerError(Exception):
    """A worker failed for a reason that is not the user's. Its message is one line with the cause. Exit code 1."""


class ReplayError(Exception):
    """An input is rejected: it becomes a row in `rejects/` and does not stop the job.

    Attributes:
        code: short reason code, stable across versions (see `datasets.schema.reject_reasons`).
        message: what was found; never contains a player's name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def one_line(text: object) -> str:
    """A text, or what an error says, without line breaks and repeated blanks."""
    return " ".join(str(text).split())


def first_difference(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> str:
    """Text for an error message: the dotted name and both values of the first option that differs."""
    for name in sorted(there.keys() | here.keys()):
        first, second = there.get(name), here.get(name)
        if isinstance(first, dict) and isinstance(second, dict) and first != second:
            return first_difference(first, second, f"{prefix}{name}.")
        if first != second:
            return f"{prefix}{name} is {first} there, {second} here"
    return "none"
