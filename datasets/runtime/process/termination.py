"""SIGTERM as an exception: a command saves its work, cleans up and reports what ended it."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, NoReturn

_limit: dict[str, Any] = {}
"""Arguments of `end_within`; empty if it was not called."""


class TerminatedError(SystemExit):
    """The process received SIGTERM. A SystemExit, so that `except Exception` does not swallow it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def raise_on_sigterm() -> None:
    """Raise TerminatedError in the main thread on SIGTERM. Called in the main thread.

    Later SIGTERMs are ignored: `timeout` and some schedulers send two, and the second must not interrupt the clean-up.
    """
    signal.signal(signal.SIGTERM, _raise_once)


def end_within(seconds: float, message: str) -> None:
    """End the process if it still runs some seconds after SIGTERM: native code may hang in its clean-up.

    Args:
        message: the line that is then printed on stderr.
    """
    _limit.update(seconds=seconds, message=message)


def raise_if_terminated() -> None:
    """Raise TerminatedError if SIGTERM has arrived. For loops that call native code.

    Python discards the exception of a signal handler that runs within a destructor or a callback from native code.
    """
    if signal.getsignal(signal.SIGTERM) is _ignore:
        raise TerminatedError


def _raise_once(_number: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, _ignore)
    if _limit:
        timer = threading.Timer(_limit["seconds"], _end)
        timer.daemon = True
        timer.start()
    raise TerminatedError


def _end() -> None:
    os.write(2, f"{_limit['message']}\n".encode())
    os._exit(128 + signal.SIGTERM)


def _ignore(_number: int, _frame: Any) -> None:
    pass
