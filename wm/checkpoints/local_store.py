"""Checkpoints in a local folder: each is written to a hidden folder, which is then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from datasets.runtime.durable_files import fsync_folder
from wm.checkpoints.files import META_FILE, CheckpointName, DamagedCheckpointError
from wm.checkpoints.store import PROBE_FILE, CheckpointStore, reason_of


class LocalStore(CheckpointStore):
    """A folder on a disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.location = root, str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def commit(self, name: CheckpointName, files: Iterable[tuple[str, bytes]]) -> None:
        temporary = self._temporary(name)
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for file_name, content in files:
                with (temporary / file_name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            fsync_folder(temporary)
            temporary.rename(self.root / str(name))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(self.root)

    def remove(self, name: CheckpointName) -> None:
        temporary = self._temporary(name)
        (self.root / str(name)).rename(temporary)
        shutil.rmtree(temporary)

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.glob(".targets-*"):
            shutil.rmtree(path)
        probe = self.root / PROBE_FILE
        probe.write_bytes(b"?")
        probe.unlink()

    def local_path(self, name: CheckpointName | None, *, verify: bool) -> Path:
        if verify:
            try:
                self.verified_meta(name)
            except OSError as error:
                raise DamagedCheckpointError(reason_of(error)) from error
        return self.root / self.path_of(name)

    def _temporary(self, name: CheckpointName) -> Path:
        return self.root / f".{name}.{os.getpid()}"

    def _folders(self) -> dict[CheckpointName, bool]:
        found = {path: CheckpointName.parse(path.name) for path in self.root.glob("targets-*")}
        return {name: (path / META_FILE).exists() for path, name in found.items() if name is not None}
