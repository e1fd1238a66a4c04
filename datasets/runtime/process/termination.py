"""SIGTERM as an exception: a command saves its work, cleans up and reports what ended it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_limits: list[float] = []
"""Seconds of each `ends_within` that is entered, the innermost last."""
_messages = [""]
"""The last is the line on stderr if `ends_within` ends the process."""
RETRY_SECONDS = 0.02


class TerminatedError(SystemExit):
    """The process received SIGTERM. A SystemExit, so that `except Exception` does not swallow it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def raise_on_sigterm(message: str = "") -> None:
    """Raise TerminatedError in the main thread on SIGTERM. Called in the main thread.

    Later SIGTERMs are ignored: `timeout` and some schedulers send two, and the second must not interrupt the clean-up.
    If Python discards the exception, because the handler ran in a destructor, in a hook of `os.fork` or in a callback
    from native code, the signal is sent again until the exception is raised elsewhere.

    Args:
        message: the line on stderr if `ends_within` ends the process.
    """

    def raise_once(_number: int, _frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, _ignore)
        begin_limit()
        raise TerminatedError

    _messages.append(message)
    main_thread = threading.get_ident()
    report_unraisable = sys.unraisablehook

    def send_again_if_discarded(unraisable: Any) -> None:
        # A SystemExit is of this handler, or of Ray's while `ray.init` runs.
        if not isinstance(unraisable.exc_value, SystemExit) or threading.get_ident() != main_thread:
            report_unraisable(unraisable)
            return
        if signal.getsignal(signal.SIGTERM) is _ignore:
            signal.signal(signal.SIGTERM, raise_once)
        _call_later(RETRY_SECONDS, signal.pthread_kill, main_thread, signal.SIGTERM)

    # The last of all exit handlers. After them the interpreter removes signal handlers, while it still takes a moment.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, raise_once)
    sys.unraisablehook = send_again_if_discarded


def exit_on_sigterm(code: int) -> None:
    """From now on SIGTERM ends the process at once: its work is done, and what the interpreter still does may hang.

    Ray's processes end with it. Called in the main thread.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(code))


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    """End the process if it still runs some seconds after a SIGTERM in this block: its clean-up may hang."""
    _limits.append(seconds)
    try:
        yield
    finally:
        _limits.pop()


def begin_limit() -> None:
    """Begin the time of `ends_within`. For a SIGTERM that another handler has answered, such as Ray's in `ray.init`."""
    if _limits:
        _call_later(_limits[-1], _end)


def raise_if_terminated() -> None:
    """Raise TerminatedError if SIGTERM has arrived. For loops that call native code.

    Python discards the exception of a signal handler that runs within a destructor or a callback from native code.
    """
    if signal.getsignal(signal.SIGTERM) is _ignore:
        raise TerminatedError


def _call_later(seconds: float, function: Callable[..., object], *args: object) -> None:
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def _end() -> None:
    os.write(2, f"{_messages[-1]}\n".encode())
    os._exit(128 + signal.SIGTERM)


def _ignore(_number: int, _frame: Any) -> None:
    pass
