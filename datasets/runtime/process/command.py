"""Runs a command of the command line: errors, signals and broken pipes become an exit code and at most one line."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from datasets.runtime.errors import WorkerError
from datasets.runtime.process.standard_streams import discard_stdout, prepare_standard_streams, stdout_reader_is_gone
from datasets.runtime.process.termination import TerminatedError, exit_on_sigterm, raise_on_sigterm
from datasets.runtime.ray_files import ray_logs

FAILED = 1
USAGE_ERROR = 2
STOPPED = "stopped by SIGTERM"
WORKS_FOR = "WM_WORKS_FOR"
"""Environment variable: the location of what a watched command works on."""


def parse_and_run(command: Callable[..., int | None], verb: str, args: Sequence[str]) -> int:
    """Call a function with the arguments of the command line; returns the exit code.

    Raises:
        UserError: an argument is missing, unknown, or not of its type.
    """
    import tyro

    from datasets.runtime.process.argument_errors import one_line_for_a_mistake

    with one_line_for_a_mistake(command, f"wm {verb}", args):
        return tyro.cli(command, prog=f"wm {verb}", args=args) or 0


def run_command(
    name: str, command: Callable[[], int], *user_errors: type[Exception], resumes: bool = False
) -> NoReturn:
    """Run a command and exit: with its exit code, 2 for a user's mistake, or 128 + N for signal N.

    Args:
        name: starts the line that is printed, such as `wm encode`.
        command: returns the exit code.
        user_errors: exceptions whose message is for the user, without a traceback.
        resumes: whether the same command resumes after an interruption.
    """
    atexit.register(gc.freeze)  # the interpreter's shutdown would traverse all objects of torch and Ray several times
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # warnings of libraries are for developers: python -W default -m wm.cli
    # Ray's handler in C++, between its installation and the end of `ray.init`, would print a stack trace on SIGTERM and
    # abort. Ray reads the variable when it is imported.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    prepare_standard_streams()
    resume = "; run the same command again to resume" if resumes else ""
    raise_on_sigterm(f"{name}: {STOPPED}{resume}")  # until the end: a second SIGTERM must not change the exit code
    code = _exit_code(name, command, user_errors, resume)
    exit_on_sigterm(code)
    sys.exit(code)


def _exit_code(name: str, command: Callable[[], int], user_errors: tuple[type[Exception], ...], resume: str) -> int:
    try:
        try:
            return _run_watched(command)
        finally:
            sys.stdout.flush()
    except user_errors as error:
        message, code = f"{error}{_logs_hint()}", USAGE_ERROR
    except TerminatedError:
        message, code = f"{STOPPED}{resume}", 128 + signal.SIGTERM
    except KeyboardInterrupt:
        message, code = f"interrupted{resume}", 128 + signal.SIGINT
    except UnicodeEncodeError as error:
        message, code = f"the path {error.object!r} is not valid UTF-8; rename it", USAGE_ERROR
    except OSError as error:
        if stdout_reader_is_gone():
            discard_stdout()
            return 128 + signal.SIGPIPE
        message, code = f"{_os_error_text(error)}{_logs_hint()}", USAGE_ERROR
    except WorkerError as error:
        message, code = f"{error}{_logs_hint()}", FAILED
    except Exception:
        print(f"{name}: failed{_logs_hint()}", file=sys.stderr)
        raise
    print(f"{name}: {message}", file=sys.stderr)
    return code


def _run_watched(command: Callable[[], int]) -> int:
    """Run a command that answers a watch which asks for its stacks (`wm watch` sets the variable)."""
    works_for = os.environ.get(WORKS_FOR)
    if works_for is None:
        return command()
    from datasets.runtime.process.stacks import dumping_stacks

    with dumping_stacks(works_for):
        return command()


def _os_error_text(error: OSError) -> str:
    reason = error.strerror or str(error).splitlines()[0]
    return f"{reason}: {error.filename}; check the path and its permissions" if error.filename else reason


def _logs_hint() -> str:
    return f"; Ray's logs: {logs}" if (logs := ray_logs()) is not None else ""
