"""A port of a machine on this machine's loopback interface, as `ssh -L` and `ray dashboard` forward one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from machines import NETNS, Machine

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
CONNECT_TIMEOUT_S = 5.0


class Forward:
    """Connections to `127.0.0.1:port` go to an address inside a machine's network namespace.

    The machine is found by the name of its namespace at each connection, so that a forward outlives its machine.

    Attributes:
        port: on this machine.
    """

    def __init__(self, machine: Machine, port: int, host: str = "127.0.0.1") -> None:
        self._namespace, self._target = NETNS / machine.namespace, (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        """Accept connections. A socket belongs to the namespace of the thread that makes it."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                with _inside(self._namespace):
                    server = socket.create_connection(self._target, CONNECT_TIMEOUT_S)
            except OSError:  # nobody listens there now
                client.close()
                continue
            for sock in (client, server):
                sock.settimeout(None)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Forward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@contextlib.contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    """Move this thread into a network namespace and back."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(namespace)
        yield
    finally:
        _enter(Path(f"/proc/self/fd/{own}"))
        os.close(own)


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(descriptor)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what arrives until the end of it."""
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
    with contextlib.suppress(OSError):
        source.shutdown(socket.SHUT_RD)
