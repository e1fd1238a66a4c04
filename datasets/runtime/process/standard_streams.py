"""Standard streams that are closed, broken pipes, or cannot encode a file name."""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

STDOUT, STDERR = 1, 2


def prepare_standard_streams() -> None:
    """Let every `print` succeed: on closed streams, and for file names that the stream's encoding lacks."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)  # a closed stream's number must not go to the next opened file
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _printable(sys.stdout, STDOUT)
    sys.stderr = _printable(sys.stderr, STDERR)


def _printable(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return open(descriptor, "w", errors="backslashreplace", closefd=False)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def stdout_reader_is_gone() -> bool:
    """Whether standard output is a pipe whose reader has exited, as in `wm ... | head`."""
    poll = select.poll()
    poll.register(STDOUT, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def discard_stdout() -> None:
    """Discard what is left to print, so that the interpreter's last flush does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STDOUT)
    os.close(null)
