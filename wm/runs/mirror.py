"""Keeps a run in object storage equal to a folder on rank 0's machine: a thread uploads what changed.

A kill can lose the changes since the last upload. A checkpoint is committed only after `upload`, so no row of the log
that is older than the newest checkpoint is lost.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from datasets.runtime.remote_folder import RemoteFolder
from wm.runs.problem_report import report_once

UPLOAD_SECONDS = 3.0
"""Between two uploads, at least."""
MAX_BYTES_PER_S = 1_000_000
"""On average: a log of many megabytes, which is uploaded as a whole, is uploaded less often."""
CLOSE_SECONDS = 30.0
"""How long the last upload is tried again while the storage cannot be reached."""
RETRY_SECONDS = 1.0

Signature = tuple[int, int, int]
"""Inode, size and modification time."""


class Mirror:
    """A local folder whose changes are uploaded. Hidden files are not: temporary files are hidden."""

    def __init__(self, store: RemoteFolder) -> None:
        self._store = store
        self._uploaded: dict[str, Signature] = {}
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._reported: set[str] = set()

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="wm-run-")

    @property
    def folder(self) -> Path:
        """The local folder, which is deleted when the process ends."""
        return Path(self._scratch.name)

    def open(self, continued: Iterable[str]) -> None:
        """Download files that an earlier process has left, and begin to upload; nothing if this was done before.

        Args:
            continued: names of the files to download, as far as they exist.
        Raises:
            OSError: a file cannot be read.
        """
        if self._thread is not None:
            return
        for name in continued:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).write_bytes(self._store.read(name))
        self._uploaded = _signatures(self.folder)
        self._thread = threading.Thread(target=self._upload_repeatedly, name="run-upload", daemon=True)
        self._thread.start()

    def read(self, name: str) -> bytes | None:
        """Content of a file in the folder, which may not have been uploaded yet; None if it is not there."""
        try:
            return None if self._thread is None else (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, below: str) -> set[str]:
        """Names of the entries of the folder, or of one in it, without hidden ones."""
        path = self.folder / below
        if self._thread is None or not path.is_dir():
            return set()
        return {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}

    def upload(self) -> int:
        """Upload all changes made in the folder until now; what was deleted there is deleted.

        Returns:
            Number of bytes.
        Raises:
            OSError: something cannot be uploaded; it will be tried again.
        """
        num_bytes = 0
        with self._lock:
            found = _signatures(self.folder)
            for name, signature in found.items():
                if self._uploaded.get(name) != signature:
                    try:
                        content = (self.folder / name).read_bytes()
                    except FileNotFoundError:  # deleted meanwhile
                        continue
                    self._store.write(name, content)
                    self._uploaded[name] = signature
                    num_bytes += len(content)
            for name in self._uploaded.keys() - found.keys():
                self._store.delete(name)
                del self._uploaded[name]
        return num_bytes

    def close(self) -> None:
        """Upload what is left and end the thread; if the storage stays away, say what is not there."""
        if self._thread is None:
            return
        self._is_closing.set()
        self._thread.join()
        self._thread = None
        self._is_closing.clear()
        deadline = time.monotonic() + CLOSE_SECONDS
        while True:
            try:
                self.upload()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    kept = tempfile.mkdtemp(prefix="wm-run-")
                    shutil.copytree(self.folder, kept, dirs_exist_ok=True)
                    report_once(f"the last rows of {self._store.location} are only in {kept}", error, set())
                    return
            time.sleep(RETRY_SECONDS)

    def _upload_repeatedly(self) -> None:
        pause = UPLOAD_SECONDS
        while not self._is_closing.wait(pause):
            try:
                pause = max(UPLOAD_SECONDS, self.upload() / MAX_BYTES_PER_S)
            except Exception as error:  # whatever it is, it is tried again
                report_once(f"{self._store.location} cannot be written", error, self._reported)
                pause = UPLOAD_SECONDS


def _signatures(folder: Path) -> dict[str, Signature]:
    """Files of a folder and of those below by their paths, without hidden ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        try:
            facts = path.stat()
        except FileNotFoundError:  # deleted meanwhile
            continue
        if path.is_file():
            found[name.as_posix()] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found
