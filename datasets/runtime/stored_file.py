"""A file that can be opened: its location, and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass


def storable_name(name: str | bytes) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become replacement characters."""
    content = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return content.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that can be opened."""

    location: str
    """Path or URI."""
    identity: str
    """What identifies the file: its path with symbolic links resolved, or its URI without credentials and options."""
    name: str
    """Name without the folders above it, as valid Unicode."""
    num_bytes: int
    mtime_ns: int

    @property
    def parent_name(self) -> str:
        """Name of the folder that holds the file."""
        return storable_name(self.identity.rstrip("/").rsplit("/", 2)[-2])
