"""Encoding in a child process: a panic, an abort, a hang or a memory blow-up costs the one input that caused it.

`ParserProcess` is the parent's side of one long-lived child that runs `datasets.pipeline.encode.encode_chunk`. The
child says which input it is about to parse; when it dies or falls silent, a new one gets the chunk again. An input at
which two children in a row failed is refused with a reason (once may be the machine's doing: a killed process, a
stalled disk, a heap that an earlier game broke), so a stray signal loses no game.

The two speak over a socket: the parent sends pickles, a dictionary of refused inputs and the chunk; the child answers
with messages of a kind, a number and, for some, that many bytes.
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

from datasets.pipeline.parser_main import BEGIN, ERROR, FOLDER, MESSAGE, NO_INPUT, OUT_OF_MEMORY_EXIT
from datasets.runtime.hardware import process_memory

START_TIMEOUT_S = 60.0
"""Until a new child has imported what it needs; about half a second on an idle machine."""
MAX_INPUT_FAULTS = 2
"""Children that an input may cost before it is refused."""
MAX_OTHER_FAULTS = 3
"""Children that a chunk may cost outside of its inputs (starting, writing Parquet) before that is our error."""

CHILD = """\
import json, sys
sys.path[:], *arguments = json.loads(sys.argv[1])
from datasets.pipeline.parser_main import serve
serve(*arguments)
"""


class ParserError(Exception):
    """The child cannot do its work, and no input is at fault; or it met an exception that cannot be sent as it is."""


class _ChildError(Exception):
    """A child died or fell silent, at an input or (None) outside of any."""

    def __init__(self, index: int | None, code: str, message: str) -> None:
        super().__init__(message)
        self.index, self.code, self.message = index, code, message


class ParserProcess:
    """One child process that encodes chunks. For one thread at a time, but for `memory_bytes_used`.

    Args:
        memory_bytes: private memory that the child may take beyond what it has after its imports (Linux only).
        timeout_s: longest silence at one input, reading included, in seconds.
        encode: `module:function` that the child runs, called as `encode_chunk` is.
    """

    def __init__(
        self, memory_bytes: int, timeout_s: float = 60.0, encode: str = "datasets.pipeline.encode:encode_chunk"
    ) -> None:
        if memory_bytes <= 0 or timeout_s <= 0:
            raise ValueError(f"memory_bytes={memory_bytes}, timeout_s={timeout_s:g}: both must be above 0")
        self._memory_bytes, self._timeout_s, self._encode = memory_bytes, timeout_s, encode
        self._child: _Child | None = _Child(memory_bytes, encode)

    def encode(self, chunk: bytes) -> bytes:
        """Encode one chunk.

        Args:
            chunk: a pickled `datasets.pipeline.encode.Chunk`.
        Returns:
            A pickled `datasets.pipeline.encode.ChunkResult`. Inputs that killed or stalled their child are among its
            rejects, as `parser_crashed`, `parser_hung` or `too_much_memory`.
        Raises:
            ParserError: the child died MAX_OTHER_FAULTS times outside of any input.
            Exception: what was raised in the child, with the child's traceback as its cause.
        """
        faults: Counter[int | None] = Counter()
        refused: dict[int, tuple[str, str]] = {}
        while True:
            if self._child is None:
                self._child = _Child(self._memory_bytes, self._encode)
            try:
                return self._child.encode(chunk, refused, self._timeout_s)
            except _ChildError as fault:
                self.close()
                faults[fault.index] += 1
                if fault.index is None and faults[None] == MAX_OTHER_FAULTS:
                    raise ParserError(f"{fault.message}, {MAX_OTHER_FAULTS} times, at no input's parsing") from None
                if fault.index is not None and faults[fault.index] == MAX_INPUT_FAULTS:
                    refused[fault.index] = (fault.code, fault.message)
            except BaseException:
                self.close()
                raise

    @property
    def pid(self) -> int | None:
        """Of the child that there is now; None after `close`, until the next chunk."""
        child = self._child
        return None if child is None else child.process.pid

    def memory_bytes_used(self) -> int:
        """Memory of the child, pages that it shares counted in proportion (PSS), else all resident; 0 without one."""
        pid = self.pid
        return 0 if pid is None else process_memory(pid)

    def close(self) -> None:
        """End the child and remove what it left unfinished."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Child:
    """The parent's ends of one child. It is a fresh interpreter: a fork would copy its parent's threads' locks."""

    def __init__(self, memory_bytes: int, encode: str) -> None:
        self._socket, theirs = socket.socketpair()
        lifeline_read, lifeline_write = os.pipe()
        self._lifeline = os.fdopen(lifeline_write, "wb", buffering=0)
        self._reader = self._socket.makefile("rb")
        self._folder: str | None = None
        self._is_ready = False
        self._index: int | None = None
        self._memory_bytes = memory_bytes
        paths = [path or os.getcwd() for path in sys.path]
        arguments = json.dumps([paths, theirs.fileno(), lifeline_read, memory_bytes, encode])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline_read),
                start_new_session=True,  # a terminal's Ctrl-C is the parent's to answer
            )
        finally:
            theirs.close()
            os.close(lifeline_read)

    def encode(self, chunk: bytes, refused: dict[int, tuple[str, str]], timeout_s: float) -> bytes:
        self._index = None
        if not self._is_ready:
            self._await_answer((), START_TIMEOUT_S)
            self._is_ready = True
        return self._await_answer((pickle.dumps(refused), chunk), timeout_s)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.close()
        self._socket.close()
        self._lifeline.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _await_answer(self, parts: tuple[bytes, ...], timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        try:
            for part in parts:
                self._socket.sendall(part)
            kind, content = self._next_answer()
        except TimeoutError:
            raise _ChildError(self._index, "parser_hung", f"no answer within {timeout_s:g} s") from None
        except (EOFError, ConnectionError):
            raise self._death() from None
        if kind == ERROR:
            _raise_as_sent(content)
        self._take_files()
        return content

    def _take_files(self) -> None:
        """Move what the child wrote out of its own folder, which goes."""
        if self._folder is None:
            return
        folder, self._folder = Path(self._folder), None
        for path in folder.iterdir():
            path.rename(folder.parent / path.name)
        folder.rmdir()

    def _next_answer(self) -> tuple[int, bytes]:
        """The child's next READY, RESULT or ERROR; what it says before that is noted."""
        while True:
            kind, number = MESSAGE.unpack(self._read(MESSAGE.size))
            if kind == BEGIN:
                self._index = None if number == NO_INPUT else number
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
            message = f"more than {self._memory_bytes / 1e6:.0f} MB of memory needed"
            return _ChildError(self._index, "too_much_memory", message)
        how = f"died of {_signal_name(-status)}" if status < 0 else f"ended itself with exit code {status}"
        return _ChildError(self._index, "parser_crashed", f"the parser {how}")


def _raise_as_sent(content: bytes) -> None:
    pickled, trace = pickle.loads(content)
    error = None if pickled is None else pickle.loads(pickled)
    cause = ParserError(f"in the parser's process:\n{trace}")
    raise cause if error is None else error from cause


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
