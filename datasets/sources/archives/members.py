"""Members of archives as inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from datasets.legacy.meta_json import Metadata
from datasets.runtime.stored_file import StoredFile, storable_name
from datasets.sources.archives.decompress import too_large
from datasets.sources.inputs import ReplayInput, TarMember, ZipMember
from datasets.sources.names import META_NAME, is_unsafe, key_of, kind_of, location_key_of, unsupported
from datasets.sources.read_errors import READ_ERRORS, UNREACHABLE, rejection_of


def with_meta(replay: ReplayInput, table: Metadata | None) -> ReplayInput:
    """A parsed game with its entry of a table; left for the next run if the table cannot be read for now."""
    if table is None or replay.kind != "parsed" or replay.rejection is not None:
        return replay
    if table.unread is not None:
        return replace(replay, rejection=table.unread)
    return replace(replay, meta=table.get(replay.name))


def fill_table(table: Metadata, read: Callable[[], object]) -> list[tuple[str, str]]:
    """Fill a table by reading its `meta.json`.

    Returns:
        The rejection of the archive or folder, if that fails.
    """
    try:
        read()
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        code, message = rejection_of(error)
        return [note_unread(table, (code, f"{META_NAME}: {message}"))]
    return []


def note_unread(table: Metadata, rejection: tuple[str, str]) -> tuple[str, str]:
    """Note that a table is incomplete if its rejection is transient; returns the rejection."""
    if rejection[0] == UNREACHABLE:
        table.unread = rejection
    return rejection


class Member:
    """One file of an archive, as the archive's directory or its header describes it."""

    __slots__ = ("_key", "byte_range", "checksum", "kind", "name", "num_bytes", "number", "problem", "stored_bytes")

    def __init__(
        self,
        *,
        number: int,
        name: str,
        num_bytes: int,
        stored_bytes: int,
        checksum: object,
        byte_range: ZipMember | TarMember | None = None,
        problem: tuple[str, str] | None = None,
    ) -> None:
        """Args:
        checksum: of the member, or size and time of an archive that has no checksums.
        problem: reason code and message if the member is known to be unreadable.
        """
        self.number = number
        self.name = name
        self.kind = kind_of(name)
        self.num_bytes = num_bytes
        self.stored_bytes = stored_bytes
        self.checksum = checksum
        self.byte_range = byte_range
        self.problem = problem
        self._key = ""

    @property
    def is_candidate(self) -> bool:
        """Whether the member becomes an input, read or rejected; else it is ignored."""
        return self.kind not in ("ignored", "meta")

    def key(self, archive: StoredFile) -> str:
        """Identity of the member, the same wherever the archive lies."""
        if not self._key:
            self._key = key_of("member", archive.name, self.number, self.name, self.num_bytes, self.checksum)
        return self._key

    def key_if_damaged(self, archive: StoredFile) -> str:
        """Key of a member whose stored bytes are damaged: in the repaired archive it is another input."""
        return key_of(self.key(archive), archive.num_bytes, archive.mtime_ns)

    def mark_truncated(self, archive_bytes: int) -> None:
        """Note that the archive ends within the member. In the complete archive the member is another input."""
        self.problem = "unopenable", "the archive ends within this member"
        self.checksum = (self.checksum, archive_bytes)

    def rejection(self) -> tuple[str, str] | None:
        """Reason code and message if the member is rejected without being read."""
        if self.kind in ("archive", "unsupported_archive"):
            return "nested_archive", "an archive inside an archive; unpack it and name it as a source of its own"
        if is_unsafe(self.name):
            return "unsafe_path", "the member's path leaves the archive's folder"
        if self.problem is not None:
            return self.problem
        if self.kind == "unsupported_replay":
            return unsupported(self.name)
        return too_large(self.num_bytes)

    def input(self, archive: StoredFile) -> ReplayInput:
        """The member as an input."""
        is_parsed = self.kind == "parsed"
        return ReplayInput(
            key=self.key(archive),
            location_key=location_key_of(archive.name, self.number, self.name),
            key_if_damaged=self.key_if_damaged(archive),
            source=archive.name,
            member=self.number,
            name=self.name.rsplit("/", 1)[-1] if is_parsed else storable_name(self.name),
            container=archive.location,
            num_bytes=self.stored_bytes,
            kind="parsed" if is_parsed else "slp",
            byte_range=self.byte_range,
            rejection=self.rejection(),
        )
