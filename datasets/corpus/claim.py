"""Taking possession of a folder for an encode: whose it is, its lock, and a place for files that are being written."""

from __future__ import annotations

import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

from datasets.corpus.state import CORPUS_FILE, IN_PROGRESS_FILE, LOCK_FILE, dump_json, load_json
from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.storage.folder import Folder, Lock
from datasets.runtime.storage.local_folder import LocalFolder
from datasets.schema.columns import FORMAT_VERSION

STAGING = "staging"
"""Folder of a corpus on a disk for files that workers are writing."""


def claim(folder: Folder, options: dict[str, Any]) -> Lock:
    """Check that the folder is ours and has the same options, lock it, and mark it as being written.

    Args:
        options: of the encode, as stored.
    Raises:
        UserError: it is not a corpus, was made with other options, is damaged, or is locked by another process.
    """
    _require_ours(folder, options)
    lock = folder.lock(
        LOCK_FILE,
        f"{socket.gethostname()} {uuid.uuid4().hex}",
        f"another encode is writing {folder.location}; wait for it or choose another --out",
    )
    try:
        _require_ours(folder, options)  # another encode may have finished in between
        folder.replace(IN_PROGRESS_FILE, dump_json({"format_version": FORMAT_VERSION, "options": options}))
    except BaseException:
        lock.close()
        raise
    return lock


def new_staging(folder: Folder) -> Path:
    """A new folder, because a worker of a killed run may still write into that of its run."""
    name = uuid.uuid4().hex
    if isinstance(folder, LocalFolder):
        shutil.rmtree(folder.root / STAGING, ignore_errors=True)
        staging = folder.root / STAGING / name
    else:
        staging = Path(tempfile.gettempdir(), f"wm-encode-{name}")
    staging.mkdir(parents=True)
    return staging


def delete_staging(folder: Folder, staging: Path) -> None:
    """Delete what `new_staging` made, in this run and in killed ones."""
    shutil.rmtree(staging, ignore_errors=True)
    if isinstance(folder, LocalFolder):
        shutil.rmtree(folder.root / STAGING, ignore_errors=True)


def _require_ours(folder: Folder, wanted: dict[str, Any]) -> None:
    for name in (CORPUS_FILE, IN_PROGRESS_FILE):
        try:
            content = folder.read(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        stored = load_json(folder, name, content, (2, FORMAT_VERSION))
        if stored["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder.location} has corpus format {stored['format_version']}, which is read but not written any "
                "more; encode the replays into a new folder"
            )
        options = stored.get("options") or {}
        if wanted.get("repair_old"):  # what a corpus has without it stays; it only adds
            options = options | {"repair_old": True}
        if options != wanted:
            raise UserError(
                f"{folder.location} was made with other options ({first_difference(options, wanted)}); "
                "use the same options, or another --out"
            )
        return
    if _has_foreign_files(folder):
        raise UserError(f"{folder.location} exists and is not a corpus; choose an empty or new folder with --out")


def _has_foreign_files(folder: Folder) -> bool:
    """Whether a folder contains anything but what an encode leaves that was killed at its first file."""
    if isinstance(folder, LocalFolder):
        if folder.root.exists() and not folder.root.is_dir():
            return True
        names = [path.name for path in folder.root.iterdir()] if folder.root.exists() else []
        return any(name not in (LOCK_FILE, STAGING) and not name.startswith(".") for name in names)
    return any(info.path != LOCK_FILE for info in folder.list())
