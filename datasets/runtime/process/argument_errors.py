"""A mistake in the arguments of a command in one line: what was found, what is expected, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import tyro
from tyro import _errors as parsing  # tyro prints a box of several lines; its hook has no public name yet
from tyro._arguments import ArgumentDefinition

from datasets.runtime.errors import UserError

VALUES = {"INT": "a whole number", "FLOAT": "a number", "STR": "one", "PATH": "a path"}
"""What tyro calls a type -> what a user calls it."""


@contextmanager
def one_line_for_a_mistake(command: Callable[..., int | None], prog: str, args: Sequence[str]) -> Iterator[None]:
    """While tyro parses the arguments of a command, raise what it would print.

    Raises:
        UserError: `--start: found 'x', expected a whole number; see wm rollout --help`.
    """

    def refuse(event: parsing.ParseErrorEvent) -> None:
        if (mistake := _mistake(event, args)) is None and isinstance(event, parsing.UnrecognizedArgs):
            mistake = _unknown(event.tokens, command, prog)
        if mistake is not None:
            _raise(mistake, prog)

    with parsing.on_parse_error(refuse):
        yield


def _raise(mistake: str, prog: str) -> NoReturn:
    raise UserError(f"{mistake}; see {prog} --help")


def _mistake(event: parsing.ParseErrorEvent, args: Sequence[str]) -> str | None:
    match event:
        case parsing.MissingArgs():
            return "; ".join(
                f"{_name(found.arg)} is missing ({_meaning(found.arg)})" for found in event.missing_arguments
            )
        case parsing.BadValue(argument=argument, offending_value=None):
            return f"{_name(argument)}: found no value, expected {_values(argument)}"
        case parsing.InvalidChoice():
            return f"{_name(event.argument)}: found {event.value!r}, expected {' or '.join(event.choices)}"
        case parsing.InstantiationFailure(argument=ArgumentDefinition() as argument):
            return f"{_name(argument)}: found {_found(argument, args)}, expected {_values(argument)}"
    return None


def _unknown(tokens: Sequence[str], command: Callable[..., int | None], prog: str) -> str:
    first = tokens[0]
    if not first.startswith("-"):
        return f"found {first!r} beyond the arguments that {prog} takes"
    known = re.findall(r"(?<=\s)--[\w.-]+", tyro.extras.get_parser(command, prog=prog).format_help())
    close = difflib.get_close_matches(first.partition("=")[0], known, n=1, cutoff=0.75)
    return f"unknown option {first}{f'; did you mean {close[0]}?' if close else ''}"


def _name(argument: ArgumentDefinition) -> str:
    if argument.is_positional():
        return argument.field.intern_name.upper()
    return argument.lowered.name_or_flags[-1]


def _meaning(argument: ArgumentDefinition) -> str:
    text = argument.field.helptext
    return " ".join(((text() if callable(text) else text) or _values(argument)).split()).rstrip(".")


def _values(argument: ArgumentDefinition) -> str:
    names = (argument.lowered.metavar or "").removeprefix("{None}|").split("|")
    return " or ".join(VALUES.get(name, name) for name in names)


def _found(argument: ArgumentDefinition, args: Sequence[str]) -> str:
    for arg, value in zip(args, [*args[1:], ""], strict=True):
        flag, _, joined = arg.partition("=")
        if flag.replace("_", "-") in argument.lowered.name_or_flags:
            return repr(joined or value)
    return "something else"
