"""A lock file that allows one writer per folder. The OS releases the lock when the process exits."""

from __future__ import annotations

import fcntl
import struct
import sys
from pathlib import Path
from typing import IO

from datasets.runtime.errors import UserError

FLOCK, TYPE_AT = ("qqihh", 3) if sys.platform == "darwin" else ("hhqqi", 0)
"""`struct flock` of fcntl(2), and where its `l_type` is."""


def exclusive_lock(path: Path, held_message: str) -> IO[bytes]:
    """Lock a file against other processes until the returned file is closed.

    Args:
        held_message: message of the error if another process holds the lock.
    Raises:
        UserError: another process holds the lock, or the file system does not support locks.
    """
    lock = path.open("wb")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows either errno for a lock that is held
        lock.close()
        raise UserError(held_message) from error
    except OSError as error:
        lock.close()
        raise UserError(
            f"{path} cannot be locked ({error.strerror}); use a file system that supports locks, such as a local "
            "disk, NFS 4 or EFS"
        ) from error
    return lock


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file; never takes the lock. False for locks of this process."""
    fields: list[int] = [0] * len(FLOCK)
    fields[TYPE_AT] = fcntl.F_WRLCK
    try:
        with path.open("rb") as lock:
            answer = fcntl.fcntl(lock, fcntl.F_GETLK, struct.pack(FLOCK, *fields))
    except OSError:  # no such file, or a file system without locks
        return False
    return struct.unpack(FLOCK, answer)[TYPE_AT] != fcntl.F_UNLCK
