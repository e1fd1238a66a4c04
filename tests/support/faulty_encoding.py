"""Stand-ins for `encode_chunk` in `test_parser_process.py`: the same, except that some inputs fail.

An input fails when it is parsed if the name of its source is the name of a fault, or when it is read after "reading".
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
from datasets.pipeline.encode_chunk import Begin, encode_chunk
from datasets.pipeline.feed import Chunk


def _allocate_gradually() -> None:
    blocks = []
    while True:
        blocks.append(bytearray(2**20))


def _fragment_heap() -> None:
    """Allocate 600 MB in pieces and free all but the last: its end stays in use, so malloc keeps the rest."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [libc.malloc(100_000) for _ in range(6_000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 100_000)
    for piece in pieces[:-1]:
        libc.free(ctypes.c_void_p(piece))


def _unpicklable() -> None:
    class LocalError(BaseException):
        pass

    raise LocalError("cannot be pickled")


def _disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _no_memory_to_compress() -> None:
    """The message of pyarrow."""
    raise OSError("ZSTD compression failed: Allocation error : not enough memory")


def _connection_lost() -> None:
    raise ConnectionResetError("by an object store")


FAULTS: dict[str, Callable[[], Any]] = {
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(3),
    "sleep": lambda: time.sleep(3600),
    "pause": lambda: time.sleep(3),
    "spin": lambda: re.match(r"(a+)+$", "a" * 64 + "b"),
    "allocate_at_once": lambda: bytes(8 * 2**30),
    "allocate_gradually": _allocate_gradually,
    "fragment_heap": _fragment_heap,
    "compress": _no_memory_to_compress,
    "disk_full": _disk_full,
    "connection_lost": _connection_lost,
    "unpicklable": _unpicklable,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "print": lambda: os.write(1, b"a library's message\n"),
}


def encode_with_faults(chunk: Chunk, begin: Begin, on_fault: Callable[[], object] = lambda: None) -> ChunkResult:
    """`encode_chunk`, but inputs named after a fault cause it, just after `on_fault`."""

    def begin_or_fail(index: int | None, is_read: bool = False) -> tuple[str, str] | None:
        rejection = begin(index, is_read)
        if index is not None and rejection is None:
            stage, _, fault = chunk.inputs[index].source.rpartition(" ")
            if fault in FAULTS and is_read == (stage != "reading"):
                on_fault()
                FAULTS[fault]()
        return rejection

    return encode_chunk(chunk, begin_or_fail)


def encode_with_told_faults(chunk: Chunk, begin: Begin) -> ChunkResult:
    """`encode_with_faults`, which creates a file `begun` in the staging folder when a fault begins."""
    return encode_with_faults(chunk, begin, (Path(chunk.staging).parent / "begun").touch)


def killed_once(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Kill the process at the third input, once."""

    def begin_or_kill(index: int | None, is_read: bool = False) -> tuple[str, str] | None:
        rejection = begin(index, is_read)
        marker = Path(chunk.staging).parent / "killed"
        if index == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return rejection

    return encode_chunk(chunk, begin_or_kill)


def aborts_before_any_input(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Leave an unfinished file and abort."""
    (Path(chunk.staging) / "half.parquet").write_bytes(b"half")
    os.abort()


def aborts_after_the_last_input(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Abort like a bug in closing a shard."""
    encode_chunk(chunk, begin)
    os.abort()


def reports_limits_and_imports(chunk: Chunk, begin: Begin) -> ChunkResult:
    """Return one reject whose message lists the child's core limit and heavy imports."""
    import resource
    import sys

    heavy = sorted({"ray", "torch", "pandas", "pytest"} & sys.modules.keys())
    message = f"core {resource.getrlimit(resource.RLIMIT_CORE)}, imports {heavy}"
    result = encode_chunk(replace(chunk, inputs=()), begin)
    return replace(result, rejects=[{"message": message}])


def rejecting(rejected: dict[int, tuple[str, str]]) -> Begin:
    """`begin` for `encode_chunk` in this process: rejects the same inputs."""
    return lambda index, is_read=False: None if index is None else rejected.get(index)
