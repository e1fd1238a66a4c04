"""One replay that may be read: where it lies, what identifies it, and what is known of it before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """Where a member lies in its zip, so that it is read by range without the archive's directory."""

    header_offset: int
    """Byte at which the member's local header begins."""
    stored_bytes: int
    num_bytes: int
    """Uncompressed, as the directory says; what is read must agree."""
    crc: int
    method: int
    """Compression method (APPNOTE.TXT, 4.4.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """Where a member's bytes lie in an uncompressed tar."""

    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayInput:
    """One replay that may be read, and what identifies it in a later run."""

    key: str
    """Identity of this input in 24 hexadecimal digits: place, size, time or checksum."""
    source: str
    """Name of the archive or folder, without the folders above it."""
    member: int
    """Number of the file in its source, in listing order; -1 stands for an archive as a whole."""
    name: str
    """Path below the source; may hold connect codes, so it is stored only on request."""
    container: str
    """Path or URI of the file itself, or of the archive that holds it."""
    num_bytes: int
    """Bytes that it takes in its container, for progress."""
    kind: Literal["slp", "parsed"] = "slp"
    """A replay, or what an older pipeline made of one (`datasets.legacy.parsed_game`)."""
    byte_range: ZipMember | TarMember | None = None
    """Where in its container; None where the container is the file itself, or `content` is there."""
    content: bytes | None = None
    """Its bytes as the archive stores them, of archives that can only be read from their start."""
    meta: dict[str, Any] | None = None
    """What the `meta.json` beside a parsed game says of it."""
    rejection: tuple[str, str] | None = None
    """Reason code and message, where it is known before reading that it cannot be taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipStats:
    """What a walk over the sources passed over."""

    num_ignored: int = 0
    """Files that are neither replays nor archives."""
    num_done: int = 0
    """Inputs that the corpus has already taken or refused."""
    num_bytes: int = 0
    """Bytes of those in their containers, for progress."""
