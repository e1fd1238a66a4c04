"""What the user did wrong, and what is wrong with an input."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """A user's mistake: one line with what was found, what was expected and what to do; exit code 2."""


class ReplayError(Exception):
    """An input that is not taken: becomes a row in `rejects/`, never stops a job.

    Attributes:
        code: short reason code, stable across versions (see `datasets.schema.reject_reasons`).
        message: what was found, for a person; never a player's name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def first_difference(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> str:
    """The first value in which two sets of options differ, dotted, as an error's message says it."""
    for name in sorted(there.keys() | here.keys()):
        first, second = there.get(name), here.get(name)
        if isinstance(first, dict) and isinstance(second, dict) and first != second:
            return first_difference(first, second, f"{prefix}{name}.")
        if first != second:
            return f"{prefix}{name} is {first} there, {second} here"
    return "none"
