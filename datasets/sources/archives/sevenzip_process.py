"""Runs the generators of `sevenzip_child` in child processes: a hostile archive costs a child and not the job.

A child has limits on memory, CPU time and waiting. It is forked from a server that has py7zr imported.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from datasets.runtime.errors import ReplayError
from datasets.sources.read_errors import UNREACHABLE, rejection_of

MEMORY_BYTES = 512 * 2**20
"""Private memory of a child beside the dictionaries: the directory, and a member and its pieces."""
STALL_S = 180
"""Seconds without a piece: the disk or the network hangs (SIGALRM)."""

SKIP, NAME_ONLY, CONTENT = range(3)
"""What is extracted of a member."""

CHILD_MODULE = "datasets.sources.archives.sevenzip_child"
CONTEXT = multiprocessing.get_context("forkserver")


class Row(NamedTuple):
    """One file of an archive."""

    number: int
    block: int
    """-1 for an empty file."""
    index: int
    """In its block."""
    name: str
    num_bytes: int
    stored_bytes: int
    """A share of the compressed block, in proportion to the uncompressed bytes."""
    crc: int | None
    """None where the archive has none."""


@contextmanager
def child_generator(name: str, *args: object) -> Iterator[Iterator[Any]]:
    """The items of a generator function of `sevenzip_child`, run in a child process until the context ends.

    An item is produced while the previous one is in use. Getting one raises a ReplayError if the generator raised an
    exception or the child died; in the second case the archive may be at fault.
    """
    CONTEXT.set_forkserver_preload([CHILD_MODULE])
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(sender, dict(os.environ), CHILD_MODULE, name, args), daemon=True)
    process.start()
    sender.close()
    try:
        yield _items(receiver, process)
    finally:
        process.kill()
        process.join()
        receiver.close()


def _items(receiver: Connection, process: BaseProcess) -> Iterator[Any]:
    while True:
        try:
            item, rejection = receiver.recv()
        except (EOFError, OSError):
            process.join()
            if process.exitcode:
                raise _death(process.exitcode) from None
            return
        if rejection is not None:
            raise ReplayError(*rejection)
        yield item


def _death(exit_code: int) -> ReplayError:
    """What ended the child, as the archive's rejection."""
    if exit_code == -signal.SIGXCPU:
        return ReplayError("unopenable", "reading makes no progress: the CPU time limit was exceeded")
    if exit_code == -signal.SIGALRM:
        return ReplayError(UNREACHABLE, f"no data for {STALL_S} s")
    if exit_code < 0 and exit_code != -signal.SIGKILL:
        return ReplayError("unopenable", f"the reader of 7z archives crashed ({signal.Signals(-exit_code).name})")
    return ReplayError(UNREACHABLE, f"the reader of 7z archives ended ({exit_code})")


def _run(sender: Connection, environment: dict[str, str], module: str, name: str, args: tuple[object, ...]) -> None:
    """Send each item of a generator with None; if it raises an exception, send None with the rejection."""
    os.environ.clear()  # the fork server has that of its start, maybe with older credentials
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is handled by the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rejection = None
    try:
        for item in getattr(importlib.import_module(module), name)(*args):
            signal.alarm(0)  # the parent may take its time
            sender.send((item, None))
        return
    except (BrokenPipeError, ConnectionResetError):  # the parent needs no more
        return
    except MemoryError:
        rejection = "too_much_memory", "the archive's directory takes more memory than the reader may take"
    except Exception as error:
        rejection = rejection_of(error)
    sender.send((None, rejection))
