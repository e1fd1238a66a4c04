"""Whether a run's local folders are the same on all nodes of a cluster, checked before any training.

The driver writes a file with a unique name into each folder, and every worker looks for it: a folder of that name may
well exist on a node's own disk. (A client of a network file system has never looked up the name before, so it has not
cached that there is no such file.)
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.config.run_paths import RUN_FOLDERS, local_paths
from wm.training import distributed

DISK_CACHE = "data.disk_cache"
TOKEN_PREFIX = ".driver-"


def refuse_relative_paths(config: RunConfig) -> None:
    """Refuse what a cluster's nodes would each resolve in a directory of their own.

    Raises:
        UserError: a path of the config is relative.
    """
    for name, path in local_paths(config).items():
        if not path.expanduser().is_absolute():
            remedy = "a path that every node sees, or an s3:// or gs:// URI"
            if name == DISK_CACHE:
                remedy = "an absolute path on each node's own disk"
            raise UserError(f"{name}={path} is relative, but the run is on a cluster (RAY_ADDRESS); give {remedy}")


@contextmanager
def tokens(config: RunConfig, command: str) -> Iterator[None]:
    """Write the driver's file into each folder that workers must share; delete them at the end.

    Args:
        command: identifies the call of the driver.
    Raises:
        UserError: a folder cannot be written.
    """
    written = []
    try:
        for name, folder in _shared_folders(config).items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for left_by_a_killed_driver in folder.glob(f"{TOKEN_PREFIX}*"):
                    left_by_a_killed_driver.unlink(missing_ok=True)
                written.append(folder / f"{TOKEN_PREFIX}{command}")
                written[-1].touch()
            except OSError as error:
                raise UserError(f"{name}={folder} cannot be written ({error.strerror})") from error
        yield
    finally:
        for token in written:
            with contextlib.suppress(OSError):
                token.unlink(missing_ok=True)


def check_folders(config: RunConfig, command: str) -> None:
    """On every rank, before anything is written: refuse folders that are not the driver's on some rank's node.

    Raises:
        UserError: on every rank.
    """
    problems = [one for one in distributed.all_gather_object(_unshared_folder(config, command)) if one is not None]
    if problems:
        raise UserError(problems[0])


def _unshared_folder(config: RunConfig, command: str) -> str | None:
    for name, folder in _shared_folders(config).items():
        if not (folder / f"{TOKEN_PREFIX}{command}").exists():
            return (
                f"{name}={folder} on node {socket.gethostname()} is not the folder of that name on the node of the "
                "command; give a path on a shared file system, or an s3:// or gs:// URI"
            )
    return None


def _shared_folders(config: RunConfig) -> dict[str, Path]:
    """Local folders by the name of their option."""
    return {name: path for name, path in local_paths(config).items() if name in RUN_FOLDERS}
