"""Writing files that survive a crash: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from datasets.runtime.errors import UserError

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


def check_can_write(option: str, path: Path) -> None:
    """Check, before long work, that a file can be written whose folder may still be missing.

    Args:
        option: name of the option that gives the path.
    Raises:
        UserError: it is a folder, or its folder cannot be written or made.
    """
    try:
        if not path.name or path.is_dir():
            raise UserError(f"{option} {path}: a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}; name another file") from error
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        reason = "is no folder" if not folder.is_dir() else "cannot be written"
        raise UserError(f"{option} {path}: {folder} {reason}; name another file")


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
