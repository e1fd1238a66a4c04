"""A mistake in the arguments of a command in one line: what was found, what is expected, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tyro
from tyro import _errors as parsing  # tyro prints a box of several lines; its hook has no public name yet
from tyro._arguments import ArgumentDefinition

from datasets.runtime.errors import UserError

VALUES = {"INT": "a whole number", "FLOAT": "a number", "STR": "one", "PATH": "a path"}
"""What tyro calls a type -> what a user calls it."""
SEVERAL = {"INT": "whole numbers", "FLOAT": "numbers", "STR": "some", "PATH": "paths"}
GOES_ON = " -- "
"""In the help of a command that runs another one: what follows goes to that one."""


@contextmanager
def one_line_for_a_mistake(command: Callable[..., int | None], prog: str, args: Sequence[str]) -> Iterator[None]:
    """While tyro parses the arguments of a command, raise what it would print.

    Raises:
        UserError: `--start: found 'x', expected a whole number; see wm rollout --help`.
    """

    def refuse(event: parsing.ParseErrorEvent) -> None:
        if (mistake := _Arguments(command, prog, args).mistake(event)) is not None:
            raise UserError(f"{mistake}; see {prog} --help")

    with parsing.on_parse_error(refuse):
        yield


class _Arguments:
    """The arguments of a command, after tyro has refused them."""

    def __init__(self, command: Callable[..., int | None], prog: str, args: Sequence[str]) -> None:
        self._prog, self._args = prog, list(args)
        self._options = list(tyro.extras.get_parser(command, prog=prog)._option_string_actions)
        self._goes_on = GOES_ON in (command.__doc__ or "")

    def mistake(self, event: parsing.ParseErrorEvent) -> str | None:
        """What is wrong; None for an event that commands of this project cannot cause."""
        match event:
            case parsing.MissingArgs() if unknown := self._unknown(event.unrecognized_tokens):
                return unknown
            case parsing.MissingArgs():
                missing = (context.arg for context in event.missing_arguments)
                return "; ".join(f"{_name(argument)} is missing ({_meaning(argument)})" for argument in missing)
            case parsing.UnrecognizedArgs():
                return self._unknown(event.tokens) or f"found {event.tokens[0]!r} beyond the arguments of {self._prog}"
            case parsing.BadValue(argument=argument, offending_value=None):
                return f"{_name(argument)}: {self._found(argument)}"
            case parsing.InvalidChoice(argument=argument):
                return f"{_name(argument)}: found {event.value!r}, expected {_values(argument)}"
            case parsing.InstantiationFailure(argument=ArgumentDefinition() as argument):
                return f"{_name(argument)}: {self._found(argument)}"
            case parsing.InstantiationFailure():
                return " ".join(event.message.split())
        return None

    def _unknown(self, tokens: Sequence[str]) -> str | None:
        first = next((token for token in tokens if token.startswith("-")), None)
        if first is None:
            return None
        close = difflib.get_close_matches(first.partition("=")[0], self._options, n=1, cutoff=0.75)
        goes_on = "; arguments of the command that it runs go after --" if self._goes_on else ""
        return f"unknown option {first}" + (f"; did you mean {close[0]}?" if close else goes_on)

    def _found(self, argument: ArgumentDefinition) -> str:
        """What the user gave, the last time, and what is expected."""
        expected = f"expected {_values(argument)}"
        for number in reversed(range(len(self._args))):
            flag, joins, joined = self._args[number].partition("=")
            if flag.replace("_", "-") not in argument.lowered.name_or_flags:
                continue
            rest = self._args[number + 1 :]
            end = next((i for i, word in enumerate(rest) if word.partition("=")[0] in self._options), len(rest))
            values = [joined] if joins else rest[: end if argument.lowered.nargs == "*" else min(end, 1)]
            if values and values[0].startswith("-") and not joins:
                return f"a value that begins with - needs {flag}={values[0]!r}"
            return f"found {' '.join(map(repr, values)) or 'no value'}, {expected}"
        return expected


def _name(argument: ArgumentDefinition) -> str:
    return argument.field.intern_name.upper() if argument.is_positional() else argument.lowered.name_or_flags[-1]


def _meaning(argument: ArgumentDefinition) -> str:
    text = argument.field.helptext
    return " ".join(((text() if callable(text) else text) or _values(argument)).split()).rstrip(".")


def _values(argument: ArgumentDefinition) -> str:
    """What tyro writes as `{None}|INT`, `{a,b}` or `[FLOAT [FLOAT ...]]`, in words."""
    words = []
    for kind in re.split(r"\|(?![^{]*})", argument.lowered.metavar or ""):
        if several := re.fullmatch(r"\[(\w+) \[\1 \.\.\.\]\]", kind):
            words.append(SEVERAL.get(several[1], several[1]))
        elif kind != "{None}":
            words += kind[1:-1].split(",") if kind.startswith("{") else [VALUES.get(kind, kind)]
    return " or ".join(word for word in words if word != "None")
