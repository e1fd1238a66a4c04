"""Checkpoints of a URI brought to this machine."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path

from wm.checkpoints.files import Name
from wm.checkpoints.integrity import sound_files
from wm.checkpoints.stores import LocalPlace, Place


def downloaded(there: Place, name: Name | None, into: Path | None) -> Path:
    """Bring a checkpoint to this machine; each file is compared with its checksum on the way.

    Args:
        name: None: the place itself is the checkpoint.
        into: folder that takes it, of this process alone; None: one that goes with the process.
    Returns:
        Its folder here.
    Raises:
        DamagedCheckpointError: a file is missing, or not what was written.
        UserError: it is of another version or encoding.
        OSError: it cannot be read, or not be written here.
    """
    if into is None:
        into = Path(_scratch().name) / hashlib.blake2b(there.shown.encode(), digest_size=8).hexdigest()
    here = LocalPlace(into)
    here_as = name or Name(0)
    if here_as in here.names():  # an earlier download, perhaps of another time
        here.remove(here_as)
    here.commit(here_as, sound_files(there, name))
    return here.root / str(here_as)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that is deleted at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="wm-checkpoints-")
