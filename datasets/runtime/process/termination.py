"""SIGTERM as an exception: a command saves its work, cleans up and reports what ended it."""

from __future__ import annotations

import signal
from typing import Any, NoReturn


class TerminatedError(SystemExit):
    """The process received SIGTERM. A SystemExit, so that `except Exception` does not swallow it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def raise_on_sigterm() -> None:
    """Raise TerminatedError in the main thread on SIGTERM. Called in the main thread.

    Later SIGTERMs are ignored: `timeout` and some schedulers send two, and the second must not interrupt the clean-up.
    """
    signal.signal(signal.SIGTERM, _raise_once)


def raise_if_terminated() -> None:
    """Raise TerminatedError if SIGTERM has arrived. For loops that call native code.

    Python discards the exception of a signal handler that runs within a destructor or a callback from native code.
    """
    if signal.getsignal(signal.SIGTERM) is _ignore:
        raise TerminatedError


def _raise_once(_number: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, _ignore)
    raise TerminatedError


def _ignore(_number: int, _frame: Any) -> None:
    pass
