"""What `test_parser_process.py` has a child run in place of `encode_chunk`: the same, but for inputs that misbehave.

An input misbehaves if the name of its source is that of a fault.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.corpus.chunk import ChunkResult
from datasets.pipeline.encode_chunk import encode_chunk
from datasets.pipeline.feed import Chunk

Begin = Callable[[int | None], tuple[str, str] | None]


def _take_memory_bit_by_bit() -> None:
    held = []
    while True:
        held.append(bytearray(2**20))


def _leave_memory_in_pieces() -> None:
    """Take 600 MB in pieces and free all but the last: the heap's end stays in use, so malloc keeps what is below."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(100_000) for _ in range(6_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 100_000)
    for piece in pieces[:-1]:
        libc.free(ctypes.c_void_p(piece))


def _unsendable() -> None:
    class LocalError(BaseException):
        pass

    raise LocalError("cannot be pickled")


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_memory_to_compress() -> None:
    """As pyarrow words it."""
    raise OSError("ZSTD compression failed: Allocation error : not enough memory")


def _connection_lost() -> None:
    raise ConnectionResetError("by a store of objects")


FAULTS: dict[str, Callable[[], Any]] = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "sleep": lambda: time.sleep(3600),
    "spin": lambda: re.match(r"(a+)+$", "a" * 64 + "b"),
    "take_at_once": lambda: bytes(8 * 2**30),
    "take_bit_by_bit": _take_memory_bit_by_bit,
    "leave_in_pieces": _leave_memory_in_pieces,
    "compress": _no_memory_to_compress,
    "disk_full": _disk_full,
    "connection_lost": _connection_lost,
    "unsendable": _unsendable,
    "print": lambda: os.write(1, b"a library's message\n"),
}


def encode_with_faults(chunk: Chunk, begin: Begin) -> ChunkResult:
    """`encode_chunk`, but inputs named after a fault meet it."""

    def begin_or_fail(index: int | None) -> tuple[str, str] | None:
        refusal = begin(index)
        if index is not None and refusal is None and (fault := FAULTS.get(chunk.inputs[index].source)):
            fault()
        return refusal

    return encode_chunk(chunk, begin_or_fail)


def killed_once(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Killed at the third input, but not if it was before."""

    def begin_or_die(index: int | None) -> tuple[str, str] | None:
        refusal = begin(index)
        mark = Path(chunk.staging).parent / "killed"
        if index == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return refusal

    return encode_chunk(chunk, begin_or_die)


def dies_before_any_input(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Leaves an unfinished file each time."""
    (Path(chunk.staging) / "half.parquet").write_bytes(b"half")
    os.abort()


def dies_after_the_last_input(chunk: Chunk, begin: Begin) -> ChunkResult:
    """As from a fault of ours in finishing a shard."""
    encode_chunk(chunk, begin)
    os.abort()


def names_what_it_holds(chunk: Chunk, begin: Begin) -> ChunkResult:
    """A result whose only reject's message is the child's limits and imports."""
    import resource
    import sys

    heavy = sorted({"ray", "torch", "pytest"} & sys.modules.keys())
    message = f"core {resource.getrlimit(resource.RLIMIT_CORE)}, imports {heavy}"
    result = encode_chunk(replace(chunk, inputs=()), begin)
    return replace(result, rejects=[{"message": message}])


def refusing(refused: dict[int, tuple[str, str]]) -> Begin:
    """For the plain twin: refuses the same inputs."""
    return refused.get
