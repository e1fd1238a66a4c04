"""Encoding in a child process: a panic, an abort, a hang or excessive memory use costs only the input that caused it.

`ParserProcess` is the parent's side of a long-lived child that runs `encode_chunk`. The child reports which input it is
about to parse. When it dies or stops answering, a new child gets the chunk again. An input at which two children failed
is rejected; a single failure may have another cause (a killed process, a heap that an earlier game corrupted), so one
stray signal loses no game. Where storage or this machine's memory is the cause, it is left for the next run instead.

They communicate over a socket: the parent sends two pickles, a dictionary of rejected inputs and the chunk; the child
answers with messages of a kind, a number and, for some kinds, that many bytes.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType

import numpy as np

from datasets.pipeline.known_ids import NO_IDS
from datasets.pipeline.parser_main import ERROR, FOLDER, MESSAGE, NO_INPUT, OUT_OF_MEMORY_EXIT, PARSE, READ
from datasets.runtime.hardware import available_memory_bytes, process_memory
from datasets.sources.read_errors import UNREACHABLE

READ_TIMEOUT_S = 300.0
"""Time to read one input; longer than all retries of the storage (Google's: 3 times 30 s for each of two reads)."""
START_TIMEOUT_S = 60.0
"""Time for a new child to import its modules; about half a second on an idle machine."""
MAX_INPUT_FAILURES = 2
"""Children that an input may cost before it is rejected."""
MAX_OTHER_FAILURES = 3
"""Children that a chunk may cost outside of its inputs (starting, writing Parquet) before it fails."""

CHILD = """\
import json, sys
sys.path[:], *arguments = json.loads(sys.argv[1])
from datasets.pipeline.parser_main import serve
serve(*arguments)
"""


class ParserError(Exception):
    """The child failed outside of any input, or raised an exception that cannot be pickled."""


class _ChildError(Exception):
    """A child died or stopped answering, at an input or (None) outside of any."""

    def __init__(self, index: int | None, code: str, message: str) -> None:
        super().__init__(message)
        self.index, self.code, self.message = index, code, message


class ParserProcess:
    """One child process that encodes chunks. Not thread-safe, except for `memory_bytes_used`.

    Args:
        memory_bytes: private memory that the child may allocate beyond what it has after its imports; enforced on Linux
            only (RLIMIT_DATA).
        timeout_s: longest time to parse one input, in seconds.
        read_timeout_s: longest time to read one, in seconds.
        encode: `module:function` that the child calls, with the signature of `encode_chunk`.
        known_games: games that the corpus has (`datasets.pipeline.known_ids`); every chunk gets them.
    """

    def __init__(
        self,
        memory_bytes: int,
        timeout_s: float = 60.0,
        encode: str = "datasets.pipeline.encode_chunk:encode_chunk",
        read_timeout_s: float = READ_TIMEOUT_S,
        known_games: np.ndarray = NO_IDS,
    ) -> None:
        if memory_bytes <= 0 or timeout_s <= 0:
            raise ValueError(f"memory_bytes={memory_bytes}, timeout_s={timeout_s:g}: both must be above 0")
        self._memory_bytes, self._encode = memory_bytes, encode
        self._timeouts_s = {PARSE: timeout_s, READ: read_timeout_s}
        self._known_games = pickle.dumps(known_games)
        self._child: _Child | None = _Child(memory_bytes, encode)

    def encode(self, chunk: bytes) -> bytes:
        """Encode one chunk.

        Args:
            chunk: a pickled `datasets.pipeline.feed.Chunk`.
        Returns:
            A pickled `datasets.corpus.chunk.ChunkResult`. Inputs that killed or stalled their child are among its
            rejects, as `parser_crashed`, `parser_hung` or `too_much_memory`, or its unread inputs.
        Raises:
            ParserError: the child died MAX_OTHER_FAILURES times outside of any input.
            Exception: an exception of the child, with the child's traceback as its cause.
        """
        failures: Counter[int | None] = Counter()
        rejected: dict[int, tuple[str, str]] = {}
        while True:
            if self._child is None:
                self._child = _Child(self._memory_bytes, self._encode)
            try:
                return self._child.encode(chunk, rejected, self._timeouts_s, self._known_games)
            except _ChildError as failure:
                self.close()
                failures[failure.index] += 1
                if failure.index is None and failures[None] == MAX_OTHER_FAILURES:
                    raise ParserError(f"{failure.message}, {MAX_OTHER_FAILURES} times, outside of any input") from None
                if failure.index is not None and failures[failure.index] == MAX_INPUT_FAILURES:
                    rejected[failure.index] = (failure.code, failure.message)
            except BaseException:
                self.close()
                raise

    @property
    def pid(self) -> int | None:
        """Process id of the child; None after `close`, until the next chunk."""
        child = self._child
        return None if child is None else child.process.pid

    def memory_bytes_used(self) -> int:
        """Memory of the child (`process_memory`); 0 without one."""
        pid = self.pid
        return 0 if pid is None else process_memory(pid)

    def close(self) -> None:
        """Kill the child and delete its unfinished files."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Child:
    """The parent's side of one child. It is a new interpreter: a fork would copy locks that other threads hold."""

    def __init__(self, memory_bytes: int, encode: str) -> None:
        self._socket, child_socket = socket.socketpair()
        liveness_read, liveness_write = os.pipe()
        self._liveness = os.fdopen(liveness_write, "wb", buffering=0)
        self._reader = self._socket.makefile("rb")
        self._folder: str | None = None
        self._is_ready = False
        self._index: int | None = None
        self._stage = PARSE
        self._memory_bytes = memory_bytes
        paths = [path or os.getcwd() for path in sys.path]
        arguments = json.dumps([paths, child_socket.fileno(), liveness_read, memory_bytes, encode])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(child_socket.fileno(), liveness_read),
                start_new_session=True,  # Ctrl-C in a terminal is handled by the parent
            )
        finally:
            child_socket.close()
            os.close(liveness_read)

    def encode(
        self, chunk: bytes, rejected: dict[int, tuple[str, str]], timeouts_s: dict[int, float], known_games: bytes
    ) -> bytes:
        self._index, self._stage = None, PARSE
        if not self._is_ready:
            self._request((known_games,), {PARSE: START_TIMEOUT_S})
            self._is_ready = True
        return self._request((pickle.dumps(rejected), chunk), timeouts_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.close()
        self._socket.close()
        self._liveness.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _request(self, parts: tuple[bytes, ...], timeouts_s: dict[int, float]) -> bytes:
        self._socket.settimeout(timeouts_s[self._stage])
        try:
            for part in parts:
                self._socket.sendall(part)
            kind, content = self._receive(timeouts_s)
        except TimeoutError:
            timeout_s = timeouts_s[self._stage]
            if self._stage == READ:
                raise _ChildError(self._index, UNREACHABLE, f"not read within {timeout_s:g} s") from None
            raise _ChildError(self._index, "parser_hung", f"no answer within {timeout_s:g} s") from None
        except (EOFError, ConnectionError):
            raise self._death() from None
        if kind == ERROR:
            _raise_child_exception(content)
        self._collect_files()
        return content

    def _collect_files(self) -> None:
        """Move the child's files out of the attempt's folder, and delete it."""
        if self._folder is None:
            return
        folder, self._folder = Path(self._folder), None
        for path in folder.iterdir():
            path.rename(folder.parent / path.name)
        folder.rmdir()

    def _receive(self, timeouts_s: dict[int, float]) -> tuple[int, bytes]:
        """Process messages until the child's next READY, RESULT or ERROR, which is returned."""
        while True:
            kind, number = MESSAGE.unpack(self._read(MESSAGE.size))
            if kind in (READ, PARSE):
                self._index = None if number == NO_INPUT else number
                self._stage = PARSE if number == NO_INPUT else kind
                self._socket.settimeout(timeouts_s[self._stage])
            elif kind == FOLDER:
                self._folder = os.fsdecode(self._read(number))
            else:
                return kind, self._read(number)

    def _read(self, num_bytes: int) -> bytes:
        content = self._reader.read(num_bytes)
        if len(content) < num_bytes:
            raise EOFError
        return content

    def _death(self) -> _ChildError:
        self.process.kill()
        status = self.process.wait()
        if status == OUT_OF_MEMORY_EXIT:
            available = available_memory_bytes()  # the child's memory is free again
            if available < self._memory_bytes:
                message = f"out of memory: {available / 1e6:.0f} MB of this machine's memory are left"
                return _ChildError(self._index, UNREACHABLE, message)
            message = f"needs more than {self._memory_bytes / 1e6:.0f} MB of memory"
            return _ChildError(self._index, "too_much_memory", message)
        if status == -signal.SIGKILL:  # not by itself: a machine that is out of memory kills its largest processes
            message = "the parser was killed by SIGKILL, as by a machine that is out of memory"
            return _ChildError(self._index, UNREACHABLE, message)
        reason = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with code {status}"
        return _ChildError(self._index, "parser_crashed", f"the parser {reason}")


def _raise_child_exception(content: bytes) -> None:
    pickled, trace = pickle.loads(content)
    error = None if pickled is None else pickle.loads(pickled)
    cause = ParserError(f"in the parser process:\n{trace}")
    raise cause if error is None else error from cause


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
