"""One writer to a folder: a lock that the system lets go when its process ends, however it ends."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from datasets.runtime.errors import UserError


def exclusive(path: Path, refusal: str) -> IO[bytes]:
    """Hold a lock file against other processes until the returned file is closed.

    Args:
        refusal: what the user is told if another process holds it.
    Raises:
        UserError: another process holds it.
    """
    lock = path.open("wb")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # POSIX allows either for a lock that is held
        lock.close()
        raise UserError(refusal) from error
    except OSError as error:
        lock.close()
        raise UserError(
            f"{path} cannot be locked ({error.strerror}); put it where files can be locked: a local disk, NFS 4, EFS"
        ) from error
    return lock
