"""Whether a checkpoint is what was written, file by file, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wm.checkpoints.files import META_FILE, SEALED_FILES, DamagedCheckpointError, Name, check_content, read_meta
from wm.checkpoints.stores import Place


def sound_files(place: Place, name: Name | None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a checkpoint, compared with its checksum; meta.json last.

    Args:
        name: None: the place itself is the checkpoint.
    Raises:
        DamagedCheckpointError: a file is missing, or not what was written.
        UserError: it is of another version or encoding.
        OSError: it cannot be read for now.
    """

    def read(file_name: str) -> bytes:
        try:
            return place.read(file_name if name is None else f"{name}/{file_name}")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedCheckpointError(f"{file_name} is missing") from error

    sealed = read(META_FILE)
    meta = read_meta(sealed, place.shown if name is None else f"{place.shown}/{name}")
    for file_name in SEALED_FILES:
        content = read(file_name)
        check_content(file_name, content, meta)
        yield file_name, content
    yield META_FILE, sealed


def sound_meta(place: Place, name: Name | None) -> dict[str, Any]:
    """What the meta.json of a checkpoint says, once all its files are known to be what was written.

    Raises:
        DamagedCheckpointError, UserError, OSError: see `sound_files`.
    """
    content = b""
    for _, content in sound_files(place, name):  # noqa: B007
        pass
    return read_meta(content, place.shown)
