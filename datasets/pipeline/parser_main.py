"""The child's side of `datasets.pipeline.parser_process`: serves chunks from a socket, under resource limits.

It sets the limits before it imports anything heavy. The memory limit (RLIMIT_DATA), its out-of-memory rejects, and the
kernel killing the child with its parent exist on Linux only; elsewhere the child runs without them.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import fcntl
import importlib.abc
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from datasets.runtime.process.limits import limit_memory

OUT_OF_MEMORY_EXIT = 77
"""The child's exit code when it is out of memory, since a message would need memory."""
MESSAGE = struct.Struct("<bq")
"""Kind and number: the index of an input for READ and PARSE, else the number of bytes that follow."""
READY, READ, PARSE, FOLDER, RESULT, ERROR = range(6)
NO_INPUT = -1
OUT_OF_MEMORY_MESSAGES = ("Allocation error : not enough memory", "can't start new thread")
"""Ends of messages of libraries (zstd in pyarrow, threading) that raise another exception than MemoryError."""
THREAD_STACK_BYTES = 1 << 20
"""Of Python's threads, which only fetch. The memory limit counts the stacks of threads: 8 MB each by default."""
NATIVE_STACKS_BYTES = 96 * 2**20
"""Reserved by the threads of pyarrow and of the libraries for object storage, hardly used, and counted by the limit."""
TRIM_ABOVE_BYTES = 200 * 10**6
"""Freed memory goes back to the OS above this resident size; doing that after every chunk costs 5 to 8 % of speed."""


def serve(socket_fd: int, liveness_fd: int, memory_bytes: int, encode: str) -> None:
    """Encode chunks from a socket until it closes.

    Args:
        socket_fd: descriptor of the child's socket.
        liveness_fd: read end of a pipe that nobody writes to; the OS closes the other end when the parent exits.
        memory_bytes, encode: see `ParserProcess`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _die_with_parent(liveness_fd)
    connection = socket.socket(fileno=socket_fd)
    try:
        _serve(connection, memory_bytes, encode)
    except BaseException as error:
        if _is_out_of_memory(error):
            os._exit(OUT_OF_MEMORY_EXIT)
        _send(connection, ERROR, _pickled_exception(error))
    os._exit(0)  # a library's threads may never end


class _WithoutPandas(importlib.abc.MetaPathFinder):
    """Hides pandas, which pyarrow would import at its first array: 42 MB, and a second on a busy machine."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("not needed in the parser", name=fullname)


def _serve(connection: socket.socket, memory_bytes: int, encode: str) -> None:
    # mimalloc reserves 1 GiB of address space, which the limit would count; malloc_trim frees only malloc's memory
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else it starts a thread with buffers for each core
    sys.meta_path.insert(0, _WithoutPandas())
    module, _, name = encode.partition(":")
    function = getattr(importlib.import_module(module), name)
    threading.stack_size(THREAD_STACK_BYTES)
    reader = connection.makefile("rb")
    known_games = pickle.load(reader)
    limit_memory(memory_bytes + NATIVE_STACKS_BYTES)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 2)  # output of native libraries; our own errors are sent as messages
    _send(connection, READY)
    while reader.peek(1):
        rejected = pickle.load(reader)
        chunk = dataclasses.replace(pickle.load(reader), known_games=known_games)
        _send(connection, RESULT, _encode(chunk, rejected, function, connection))
        _free_memory()


def _encode(chunk: Any, rejected: dict[int, tuple[str, str]], function: Callable, connection: socket.socket) -> bytes:
    """Encode in a separate folder, so that the parent can delete the files of a dead child."""

    def begin(index: int | None, is_read: bool = False) -> tuple[str, str] | None:
        rejection = None if index is None else rejected.get(index)
        number = NO_INPUT if index is None or rejection is not None else index
        connection.sendall(MESSAGE.pack(PARSE if is_read else READ, number))
        return rejection

    folder = Path(chunk.staging) / f"attempt-{uuid.uuid4().hex}"
    _send(connection, FOLDER, os.fsencode(folder))
    folder.mkdir()
    return pickle.dumps(function(dataclasses.replace(chunk, staging=str(folder)), begin))


def _send(connection: socket.socket, kind: int, content: bytes = b"") -> None:
    connection.sendall(MESSAGE.pack(kind, len(content)) + content)


def _pickled_exception(error: BaseException) -> bytes:
    """The exception, or None if it cannot be pickled or must not be raised in the parent; and its traceback as text."""
    try:
        pickled = pickle.dumps(error) if isinstance(error, Exception) else None
        pickle.loads(pickled or pickle.dumps(None))
    except Exception:
        pickled = None
    return pickle.dumps((pickled, "".join(traceback.format_exception(error))))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (OSError, RuntimeError)) and str(error).endswith(OUT_OF_MEMORY_MESSAGES)


def _die_with_parent(liveness_fd: int) -> None:
    """Make the kernel kill this process when the parent's end of the liveness pipe closes.

    Unlike PR_SET_PDEATHSIG this follows the parent process, not the thread that started the child, and it works while
    native code holds the GIL. Linux only; elsewhere the child exits when it next uses the socket.
    """
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(liveness_fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(liveness_fd, fcntl.F_SETOWN, os.getpid())
    os.set_blocking(liveness_fd, False)
    fcntl.fcntl(liveness_fd, fcntl.F_SETFL, fcntl.fcntl(liveness_fd, fcntl.F_GETFL) | fcntl.FASYNC)
    try:
        os.read(liveness_fd, 1)
    except BlockingIOError:
        return
    os._exit(0)  # the parent exited before the signal was set up


def _free_memory() -> None:
    """Return freed memory to the OS (glibc); otherwise the process keeps the size of its largest chunk."""
    if psutil.Process().memory_info().rss < TRIM_ABOVE_BYTES:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
