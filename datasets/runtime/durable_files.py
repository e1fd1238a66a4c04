"""Writing files that survive a crash: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

TEMPORARY_PATTERN = ".*.json.*"
"""Matches the temporary file that `write_json_atomically` leaves behind when it is killed."""


def write_json_atomically(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file: readers see the old content or the new one, also after a power loss."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that new and renamed files survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems do not support it
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
