"""The child's side of `datasets.pipeline.parser_process`: serves chunks from a socket, under limits of its own.

Imports nothing heavy until it has set those limits up, and then only what the encoding needs.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT_OF_MEMORY_EXIT = 77
"""The child's exit code after a MemoryError: to say it takes no memory."""
MESSAGE = struct.Struct("<bq")
"""Kind, then a number: of an input after BEGIN, else of the bytes that follow."""
READY, BEGIN, FOLDER, RESULT, ERROR = range(5)
NO_INPUT = -1
SHORTAGES = ("Allocation error : not enough memory", "can't start new thread")
"""How messages end of libraries (zstd in pyarrow, threading) that do not raise MemoryError where they should."""
KEPT_BYTES = 200 * 10**6
"""Resident memory that a child keeps between chunks: it is soon needed again, and fetching it anew costs 5 to 8 %."""


def serve(socket_fd: int, lifeline_fd: int, memory_bytes: int, encode: str) -> None:
    """Encode chunks from a socket until it closes.

    Args:
        socket_fd: descriptor of the child's end.
        lifeline_fd: read end of a pipe that nobody writes to and that closes with the parent.
        memory_bytes, encode: as `ParserProcess` takes them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _die_with_parent(lifeline_fd)
    connection = socket.socket(fileno=socket_fd)
    try:
        _serve(connection, memory_bytes, encode)
    except BaseException as error:
        if _is_memory_shortage(error):
            os._exit(OUT_OF_MEMORY_EXIT)
        _send(connection, ERROR, _sendable(error))
    os._exit(0)  # threads that a library left may never end


def _serve(connection: socket.socket, memory_bytes: int, encode: str) -> None:
    # mimalloc takes 1 GiB of address space at once, which the limit would count, and malloc_trim frees only malloc's.
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # no linear algebra here, but a thread and its buffers for each core
    module, _, name = encode.partition(":")
    function = getattr(importlib.import_module(module), name)
    _limit_memory(memory_bytes)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # native libraries' last words; our own travel as messages
    reader = connection.makefile("rb")
    _send(connection, READY)
    while reader.peek(1):
        refused = pickle.load(reader)
        _send(connection, RESULT, _encode(pickle.load(reader), refused, function, connection))
        _free_memory()


def _encode(chunk: Any, refused: dict[int, tuple[str, str]], function: Callable, connection: socket.socket) -> bytes:
    """Encode in a folder of its own, so that the parent can remove what a dead child left."""

    def begin(index: int | None) -> tuple[str, str] | None:
        refusal = None if index is None else refused.get(index)
        connection.sendall(MESSAGE.pack(BEGIN, NO_INPUT if index is None or refusal is not None else index))
        return refusal

    folder = Path(chunk.staging) / f"attempt-{uuid.uuid4().hex}"
    _send(connection, FOLDER, os.fsencode(folder))
    folder.mkdir()
    return pickle.dumps(function(dataclasses.replace(chunk, staging=str(folder)), begin))


def _send(connection: socket.socket, kind: int, content: bytes = b"") -> None:
    connection.sendall(MESSAGE.pack(kind, len(content)) + content)


def _sendable(error: BaseException) -> bytes:
    """The exception, where it survives pickling and may be raised in a parent, and its traceback as text."""
    try:
        pickled = pickle.dumps(error) if isinstance(error, Exception) else None
        pickle.loads(pickled or pickle.dumps(None))
    except Exception:
        pickled = None
    return pickle.dumps((pickled, "".join(traceback.format_exception(error))))


def _is_memory_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (OSError, RuntimeError)) and str(error).endswith(SHORTAGES)


def _die_with_parent(lifeline_fd: int) -> None:
    """Have the kernel kill this process when its parent's end of the lifeline closes, however the parent ends.

    Unlike PR_SET_PDEATHSIG this follows the parent process and not the thread that started the child; and it works
    while native code holds Python's lock. Elsewhere than on Linux the child ends when it next uses the socket.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(lifeline_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETOWN, os.getpid())
    os.set_blocking(lifeline_fd, False)
    fcntl.fcntl(lifeline_fd, fcntl.F_SETFL, fcntl.fcntl(lifeline_fd, fcntl.F_GETFL) | fcntl.FASYNC)
    try:
        os.read(lifeline_fd, 1)
    except BlockingIOError:
        return
    os._exit(0)  # the parent ended before the kernel knew whom to tell


def _limit_memory(memory_bytes: int) -> None:
    """Bound this process' private writable memory. RLIMIT_AS would count mapped files and reserved addresses too."""
    try:
        with open("/proc/self/status") as file:
            taken = sum(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
    except OSError:
        return
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    limit = taken + memory_bytes if allowed == resource.RLIM_INFINITY else min(taken + memory_bytes, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _free_memory() -> None:
    """Give freed memory back to the system once it is much, or the largest chunk so far would stay taken."""
    if _resident_bytes() < KEPT_BYTES:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return KEPT_BYTES
