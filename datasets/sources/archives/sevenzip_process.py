"""The process that reads 7z archives, as its parent sees it.

A hostile archive costs that process and not the job: it has limits on memory, on CPU time and on waiting. It waits for
requests and forks for each archive, so it is kept for the next one while nothing goes wrong. Messages are those of
`multiprocessing.connection`, JSON but for contents:

    parent: {"location": path or URI, "is_listing": whether members are listed first}
    child:  {"rows": members (`MEMBER_FIELDS`)}, repeatedly, if they are listed; then {"num_blocks", "dictionary_bytes"}
    parent: {"first", "step"}: which blocks to extract, then bytes: for each member, by its number, SKIP, NAME_ONLY or
            CONTENT; or null, which ends the archive
    child:  for each member not skipped: {"member": its fields}, then pieces of content, an empty message, and null or
            {"error": [reason code, message]}; null at the end of the archive
At any point where the child sends JSON, {"error": ...} may come instead, and ends the archive.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

from datasets.runtime.errors import ReplayError
from datasets.sources.read_errors import UNREACHABLE

MEMBER_FIELDS = ("number", "block", "index", "name", "num_bytes", "stored_bytes", "crc")
"""`block` and `index` in it are -1 for an empty file; `crc` is null where the archive has none."""
SKIP, NAME_ONLY, CONTENT = range(3)
STALL_S = 180
"""Seconds without a piece: the disk or the network hangs (SIGALRM)."""

CHILD = """\
import json, sys
sys.path[:], connection_fd = json.loads(sys.argv[1])
from datasets.sources.archives.sevenzip_child import serve
serve(connection_fd)
"""


def _parent_state() -> tuple[int, dict[str, str]]:
    """An idle process is reused only while its parent and the environment, which holds credentials, are the same."""
    return os.getpid(), dict(os.environ)


class SevenZipProcess:
    """A process that reads one archive after the other, kept for the next one while nothing goes wrong."""

    _idle: list[SevenZipProcess] = []  # noqa: RUF012

    def __init__(self) -> None:
        self._connection, childs = multiprocessing.Pipe()
        arguments = json.dumps([sys.path, childs.fileno()])
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, arguments],
            pass_fds=[childs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        childs.close()
        self._parent_state = _parent_state()
        self._is_released = False

    @classmethod
    def take(cls) -> SevenZipProcess:
        """An idle child, or a new one."""
        while cls._idle:
            child = cls._idle.pop()
            if child._parent_state == _parent_state() and child._process.poll() is None:
                child._is_released = False
                return child
            child._connection.close()
        return cls()

    def release(self) -> None:
        """Keep it for the next archive: it answered all that it was asked."""
        self._is_released = True
        self._idle.append(self)

    def __enter__(self) -> SevenZipProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._is_released:
            self._kill()

    def _kill(self) -> None:
        self._connection.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def send(self, message: object) -> None:
        """Send a request."""
        self.send_bytes(json.dumps(message).encode())

    def send_bytes(self, content: bytes) -> None:
        """Send bytes."""
        try:
            self._connection.send_bytes(content)
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Any:
        """A reply.

        Raises:
            ReplayError: the archive cannot be read, or the child died; then the archive may be at fault.
        """
        message = json.loads(self.receive_bytes())
        if isinstance(message, dict) and "error" in message:
            self.release()
            raise ReplayError(*message["error"])
        return message

    def receive_error(self) -> tuple[str, str] | None:
        """Reason code and message of a member that cannot be read."""
        message = json.loads(self.receive_bytes())
        return None if message is None else tuple(message["error"])

    def receive_bytes(self) -> bytes:
        """A piece of content, empty at its end."""
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> ReplayError:
        """What ended the child, as the archive's rejection."""
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return ReplayError("unopenable", "reading makes no progress: the CPU time limit was exceeded")
        if code == -signal.SIGALRM:
            return ReplayError(UNREACHABLE, f"no data for {STALL_S} s")
        if code < 0 and code != -signal.SIGKILL:
            return ReplayError("unopenable", f"the reader of 7z archives crashed ({signal.Signals(-code).name})")
        return ReplayError(UNREACHABLE, f"the reader of 7z archives ended ({code})")
