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
    replace_file(path, json.dumps(content, indent=1).encode())


def write_result(path: Path, content: dict[str, Any]) -> None:
    """Write what a command has found as a JSON file, with its folder, and print the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, content)
    print(f"\n{path}", flush=True)


def replace_file(path: Path, content: bytes, *, survives_power_loss: bool = True) -> None:
    """Replace a file: readers see the old content or the new one, and so does a restart after a kill.

    Args:
        survives_power_loss: wait until the disk has it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        if survives_power_loss:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if survives_power_loss:
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
