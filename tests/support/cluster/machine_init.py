"""First process of a machine of the tests: gives it a host name, /tmp, /run, /dev/shm, and a home folder of its own.

    python machine_init.py NAME ADDRESS [PATH ...]

Prints "ready", then reaps the machine's orphans until its standard input closes. With
it the PID namespace ends, and so every process of the machine: none outlives the test, however the test ends.

Args:
    PATH: folders that stay visible although they lie below /tmp.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
from pathlib import Path

MS_BIND, MS_REC = 4096, 16384
HOME = "/tmp/home"
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """mount(2)."""
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} at {target}")


def replace_file(path: str, content: str) -> None:
    """Change a file for this machine alone."""
    own = Path("/run", path.replace("/", "_"))
    own.write_text(content)
    mount(str(own), path, flags=MS_BIND)


def reap(*_: object) -> None:
    """Collect every child that has exited."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(name: str, address: str, *visible: str) -> None:
    """Set up the machine and wait."""
    socket.sethostname(name)
    kept = {path: os.open(path, os.O_PATH) for path in visible if Path(path).is_relative_to("/tmp")}
    for folder in ("/tmp", "/run", "/dev/shm"):
        mount("tmpfs", folder, "tmpfs")
    for path, descriptor in kept.items():
        Path(path).mkdir(parents=True)
        mount(f"/proc/self/fd/{descriptor}", path, flags=MS_BIND | MS_REC)
        os.close(descriptor)
    replace_file("/etc/hosts", f"127.0.0.1 localhost\n{address} {name}\n")
    replace_file(
        "/etc/passwd", re.sub(r"(?<=^root:).*", f"x:0:0:root:{HOME}:/bin/bash", Path("/etc/passwd").read_text())
    )
    Path(HOME).mkdir(mode=0o700)
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
