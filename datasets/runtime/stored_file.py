"""A file that may be opened: where it lies and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass

from datasets.sources.names import readable


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that may be opened."""

    location: str
    """Path or URI."""
    identity: str
    """What identifies it: its path without symbolic links, or its URI without credentials and options."""
    name: str
    """Without the folders above it, as it can be stored."""
    num_bytes: int
    mtime_ns: int

    @property
    def parent_name(self) -> str:
        """Name of the folder that holds it."""
        return readable(self.identity.rstrip("/").rsplit("/", 2)[-2])
