"""What a walk over the sources keeps: which inputs it has met, and what it passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets.runtime.stored_file import StoredFile
from datasets.sources import decompress
from datasets.sources.inputs import ReplayInput, SkipStats, TarMember, ZipMember
from datasets.sources.names import is_unsafe, key_of, kind_of, readable
from datasets.sources.seen import SeenKeys


class SourceScan:
    """The state of one walk. Its memory: a dozen bytes for each input."""

    def __init__(self, is_done: Callable[[str], bool], *, reads_contents: bool = True) -> None:
        """Args:
        is_done: whether the corpus has the input of a key.
        reads_contents: False to count what archives hold without decompressing them.
        """
        self.reads_contents = reads_contents
        self._is_done = is_done
        self._seen = SeenKeys()
        self._num_ignored = 0
        self._num_done = 0
        self._num_bytes = 0
        self.estimated_inputs = 0
        self.estimated_bytes = 0

    def estimate(self, num_inputs: int, num_bytes: int) -> None:
        """Count what cannot be counted without unpacking."""
        self.estimated_inputs += num_inputs
        self.estimated_bytes += num_bytes

    def ignore(self, name: str) -> None:
        """Count a file that is neither replay nor archive, nor tells of parsed games."""
        self._num_ignored += kind_of(name) != "meta"

    def wants(self, *keys: str, num_bytes: int) -> bool:
        """Whether an input is to be taken: neither met before, nor done under any of its keys."""
        if not self._seen.add(keys[0]):
            return False
        if any(self._is_done(key) for key in keys):
            self._num_done += 1
            self._num_bytes += num_bytes
            return False
        return True

    def drain_skipped(self) -> SkipStats:
        """What was passed over since the last call."""
        passed = SkipStats(num_ignored=self._num_ignored, num_done=self._num_done, num_bytes=self._num_bytes)
        self._num_ignored = self._num_done = self._num_bytes = 0
        return passed


def rejected_archive(
    walk: SourceScan, file: StoredFile, rejection: tuple[str, str], source: str = ""
) -> list[ReplayInput]:
    """The input that stands for an archive, or a folder, as a whole; repaired or exchanged it is another one.

    Args:
        source: name of what it is in, where it is not itself an archive.
    """
    key = key_of("whole", file.identity, file.num_bytes, file.mtime_ns, *rejection)
    if not walk.wants(key, num_bytes=0):
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
    """One file of an archive, as the archive's directory or header tells it."""

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
        checksum: of the member, or size and time of an archive that holds none.
        problem: why it cannot be read, if that is known.
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
        """Whether it is taken, or refused by name; else it is ignored."""
        return self.kind not in ("ignored", "meta")

    def key(self, archive: StoredFile) -> str:
        """Identity, the same wherever the archive lies."""
        if not self._key:
            self._key = key_of("member", archive.name, self.number, self.name, self.num_bytes, self.checksum)
        return self._key

    def cut_off(self, archive_bytes: int) -> None:
        """Note that the archive ends before the member does: with all of the archive it is another input."""
        self.problem = "unopenable", "the archive ends within this member"
        self.checksum = (self.checksum, archive_bytes)

    def rejection(self) -> tuple[str, str] | None:
        """Why it is not taken, as far as is known without reading it."""
        if self.kind in ("archive", "other_archive"):
            return "nested_archive", "an archive inside an archive; unpack it and name it as a source of its own"
        if is_unsafe(self.name):
            return "unsafe_path", "the member's name leads out of the archive's folder"
        if self.problem is not None:
            return self.problem
        return too_large(self.num_bytes)

    def input(self, archive: StoredFile, meta: dict[str, Any] | None = None) -> ReplayInput:
        """The member as an input."""
        is_parsed = self.kind == "parsed"
        return ReplayInput(
            key=self.key(archive),
            source=archive.name,
            member=self.number,
            name=self.name.rsplit("/", 1)[-1] if is_parsed else readable(self.name),
            container=archive.location,
            num_bytes=self.stored_bytes,
            kind="parsed" if is_parsed else "slp",
            byte_range=self.byte_range,
            meta=meta,
            rejection=self.rejection(),
        )


def too_large(num_bytes: int) -> tuple[str, str] | None:
    """The rejection of a file of that size, if it is one."""
    if num_bytes <= decompress.MAX_REPLAY_BYTES:
        return None
    limit = decompress.MAX_REPLAY_BYTES >> 20
    return "too_large", f"{num_bytes >> 20} MB uncompressed, expected at most {limit}: no replay is that long"
