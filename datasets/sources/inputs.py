"""One replay to read: its location, its identity, and what is known before it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from datasets.runtime.uris import without_credentials


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """Byte range of a member in its zip, so that a worker reads it without the archive's directory."""

    header_offset: int
    """Byte at which the member's local header begins."""
    stored_bytes: int
    num_bytes: int
    """Uncompressed, as the directory states; what is read must agree."""
    crc: int
    method: int
    """Compression method (APPNOTE.TXT, 4.4.5)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """Byte range of a member in an uncompressed tar."""

    offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayInput:
    """One replay to read, and what identifies it in a later run."""

    key: str
    """Identity in 24 hexadecimal digits: path, size, and time or checksum."""
    location_key: str
    """The same for every content that a file or a member at that place may have: what is read there now supersedes what
    was rejected there before."""
    source: str
    """Name of the archive or folder, without the folders above it."""
    member: int
    """Number of the file in its source, in listing order; -1 stands for an archive as a whole."""
    name: str
    """Path below the source. It may contain connect codes, so it is stored only on request."""
    container: str
    """Path or URI of the file itself, or of the archive that holds it."""
    num_bytes: int
    """Bytes that it takes in its container, for progress."""
    kind: Literal["slp", "parsed"] = "slp"
    """A replay, or a game that an older pipeline parsed (`datasets.legacy.parsed_game`)."""
    byte_range: ZipMember | TarMember | None = None
    """Position in the container; None if the container is the file itself, or `content` is set."""
    content: bytes | None = None
    """The bytes as the archive stores them, for archives that can only be read from their start."""
    meta: dict[str, Any] | None = None
    """Entry of a parsed game in the `meta.json` beside it."""
    rejection: tuple[str, str] | None = None
    """Reason code and message if it is known before reading that the input is rejected."""
    key_if_damaged: str | None = None
    """Key of a member whose stored bytes turn out to be damaged: in a repaired archive it is then another input."""

    @property
    def label(self) -> str:
        """Where it lies, for messages to the user: the file, or the archive and the member."""
        container = without_credentials(self.container)
        is_member = self.member >= 0 and (self.byte_range is not None or self.content is not None)
        return f"{container}: {self.name}" if is_member else container


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipStats:
    """What a scan over the sources skipped."""

    num_ignored: int = 0
    """Files that are neither replays nor archives."""
    num_done: int = 0
    """Inputs that the corpus has already accepted or rejected."""
    num_bytes: int = 0
    """Bytes of those inputs in their containers, for progress."""
    listed: tuple[str, ...] = ()
    """Location keys of archives that were listed whole and without a reject."""
