"""Members of archives as inputs, and the state of a scan over the sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets.runtime.stored_file import StoredFile, storable_name
from datasets.sources import decompress
from datasets.sources.inputs import ReplayInput, SkipStats, TarMember, ZipMember
from datasets.sources.names import is_unsafe, key_of, kind_of, unsupported


class SourceScan:
    """State of one scan: the keys seen so far (about 90 bytes each), and what was skipped."""

    def __init__(self, is_done: Callable[[str], bool], *, reads_contents: bool = True) -> None:
        """Args:
        is_done: whether the corpus has the input of a key.
        reads_contents: False to count the members of archives without decompressing them.
        """
        self.reads_contents = reads_contents
        self._is_done = is_done
        self._seen: set[int] = set()
        self._num_ignored = 0
        self._num_done = 0
        self._num_bytes = 0
        self.estimated_inputs = 0
        self.estimated_bytes = 0

    def estimate(self, num_inputs: int, num_bytes: int) -> None:
        """Add an estimate of what cannot be counted without decompressing it."""
        self.estimated_inputs += num_inputs
        self.estimated_bytes += num_bytes

    def ignore(self, name: str) -> None:
        """Count a file that is neither a replay nor an archive; `meta.json` is not counted, since it is used."""
        self._num_ignored += kind_of(name) != "meta"

    def admit(self, *keys: str, num_bytes: int) -> bool:
        """Whether to read an input: its first key is new to this scan, and the corpus has none of its keys."""
        value = int(keys[0][:16], 16)  # 64 bits: of 300,000 keys, two collide once in 400 million scans
        if value in self._seen:
            return False
        self._seen.add(value)
        if any(self._is_done(key) for key in keys):
            self._num_done += 1
            self._num_bytes += num_bytes
            return False
        return True

    def drain_skipped(self) -> SkipStats:
        """What was skipped since the last call."""
        skipped = SkipStats(num_ignored=self._num_ignored, num_done=self._num_done, num_bytes=self._num_bytes)
        self._num_ignored = self._num_done = self._num_bytes = 0
        return skipped


def rejected_archive(
    scan: SourceScan, file: StoredFile, rejection: tuple[str, str], source: str = ""
) -> list[ReplayInput]:
    """The input that stands for an archive or a folder as a whole; empty if the scan has it already.

    Once repaired or replaced, the archive is another input.

    Args:
        source: name of the folder that holds the archive; empty if the archive is itself the source.
    """
    key = key_of("whole", file.identity, file.num_bytes, file.mtime_ns, *rejection)
    if not scan.admit(key, num_bytes=0):
        return []
    return [
        ReplayInput(
            key=key,
            source=source or file.name,
            member=-1,
            name=file.name,
            container=file.location,
            num_bytes=0,
            rejection=rejection,
        )
    ]


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

    def input(self, archive: StoredFile, meta: dict[str, Any] | None = None) -> ReplayInput:
        """The member as an input.

        Args:
            meta: what `meta.json` has on a parsed game.
        """
        is_parsed = self.kind == "parsed"
        return ReplayInput(
            key=self.key(archive),
            source=archive.name,
            member=self.number,
            name=self.name.rsplit("/", 1)[-1] if is_parsed else storable_name(self.name),
            container=archive.location,
            num_bytes=self.stored_bytes,
            kind="parsed" if is_parsed else "slp",
            byte_range=self.byte_range,
            meta=meta,
            rejection=self.rejection(),
        )


def too_large(num_bytes: int) -> tuple[str, str] | None:
    """The rejection of a file larger than any replay; None if it is not."""
    if num_bytes <= decompress.MAX_REPLAY_BYTES:
        return None
    limit = decompress.MAX_REPLAY_BYTES >> 20
    return "too_large", f"{num_bytes >> 20} MB uncompressed, expected at most {limit}: no replay is that long"
