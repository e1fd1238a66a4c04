"""Whether a node can use a place: writes, reads and deletes a file of some MB, or reads from a corpus; with the speed.

Runs on each node; imports neither torch nor Ray.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.uris import is_remote, without_credentials
from datasets.sources.scan import check_source

PROBE_BYTES = 16_000_000
READ_BYTES = 32_000_000
RETRY_S = 20.0
"""Shorter than that of a run: an outage is to be reported."""
PROBE_PREFIX = ".preflight-"


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageFacts:
    """What came of using a place."""

    location: str
    """Without credentials."""
    problem: str | None = None
    write_mb_per_s: float | None = None
    read_mb_per_s: float | None = None
    num_bytes: int = 0


@contextmanager
def marked(locations: Sequence[str], name: str) -> Iterator[None]:
    """Create local folders that do not exist, each with a file by which other nodes recognise it; undone at the end.

    Raises:
        OSError: a folder cannot be written.
    """
    made: list[Path] = []
    marks = [Path(location, f"{PROBE_PREFIX}{name}") for location in locations if not is_remote(location)]
    try:
        for mark in marks:
            made += [one for one in (mark.parent, *mark.parent.parents) if not one.exists()]
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        yield
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # something else was written there
                folder.rmdir()


def probe_output(location: str, mark: str, name: str) -> StorageFacts:
    """Write a file, read it back, delete it.

    Args:
        mark: name given to `marked` on the node of the command.
        name: of the file, different for each node.
    """
    folder, content, path = _open(location), os.urandom(PROBE_BYTES), f"{PROBE_PREFIX}{name}"
    if not is_remote(location) and not Path(location, f"{PROBE_PREFIX}{mark}").exists():
        return StorageFacts(location=location, problem="this node does not share the folder with that of the command")
    try:
        began = time.monotonic()
        folder.replace(path, content)
        written = time.monotonic()
        found = folder.read(path)
        read = time.monotonic()
        folder.delete([path])
    except (OSError, UserError) as error:
        with suppress(OSError, UserError):
            folder.delete([path])
        return StorageFacts(location=folder.location, problem=str(error))
    return StorageFacts(
        location=folder.location,
        problem=None if found == content else "what is read differs from what was written",
        write_mb_per_s=PROBE_BYTES / 1e6 / max(1e-9, written - began),
        read_mb_per_s=PROBE_BYTES / 1e6 / max(1e-9, read - written),
        num_bytes=PROBE_BYTES,
    )


def probe_corpus(location: str, path: str) -> StorageFacts:
    """Read the beginning of a file of a corpus.

    Args:
        path: of the file, from the corpus's folder.
    """
    folder = _open(location)
    try:
        began = time.monotonic()
        num_bytes = len(folder.read_range(path, 0, READ_BYTES))
        seconds = time.monotonic() - began
    except (OSError, UserError) as error:
        return StorageFacts(location=folder.location, problem=str(error))
    return StorageFacts(
        location=folder.location, read_mb_per_s=num_bytes / 1e6 / max(1e-9, seconds), num_bytes=num_bytes
    )


def probe_source(source: str) -> StorageFacts:
    """Whether a source of an encode can be listed."""
    try:
        check_source(source)
    except (OSError, UserError) as error:
        return StorageFacts(location=without_credentials(source), problem=str(error))
    return StorageFacts(location=without_credentials(source))


def _open(location: str) -> Folder:
    return BucketFolder(location, retry_s=RETRY_S) if is_remote(location) else open_folder(location)
