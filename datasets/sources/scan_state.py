"""State of a scan over the sources: which keys it has seen, and what it skipped."""

from __future__ import annotations

from collections.abc import Callable

from datasets.runtime.stored_file import StoredFile
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.names import key_of, kind_of, location_key_of
from datasets.sources.read_errors import UNREACHABLE

MAX_DICTIONARY_BYTES = 2**30
"""Largest dictionary of a 7z that is read if there is the memory: four times that of 7-Zip's highest level."""


class SourceScan:
    """State of one scan: the keys seen so far (about 90 bytes each), and what was skipped."""

    def __init__(
        self,
        is_done: Callable[[str], bool],
        *,
        reads_contents: bool = True,
        dictionary_bytes: int = MAX_DICTIONARY_BYTES,
    ) -> None:
        """Args:
        is_done: whether the corpus has the input of a key.
        reads_contents: False to count the members of archives without decompressing them.
        dictionary_bytes: largest dictionary of an archive that is decompressed, in memory.
        """
        self.dictionary_bytes = dictionary_bytes
        self.reads_contents = reads_contents
        self._is_done = is_done
        self._seen: set[int] = set()
        self._num_ignored = 0
        self._num_done = 0
        self._num_bytes = 0
        self._listed: list[str] = []
        self.num_rejected_archives = 0
        """Rejects of archives or folders as a whole, also those that the corpus has."""
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

    def note_listed(self, archive: StoredFile) -> None:
        """Note that an archive was listed whole and without a reject."""
        self._listed.append(location_key_of(archive.identity))

    def drain_skipped(self) -> SkipStats:
        """What was skipped since the last call."""
        skipped = SkipStats(
            num_ignored=self._num_ignored,
            num_done=self._num_done,
            num_bytes=self._num_bytes,
            listed=tuple(self._listed),
        )
        self._num_ignored = self._num_done = self._num_bytes = 0
        self._listed = []
        return skipped


def rejected_archive(
    scan: SourceScan, file: StoredFile, rejection: tuple[str, str], source: str = ""
) -> list[ReplayInput]:
    """The input that stands for an archive or a folder as a whole; empty if the scan has it already.

    Once repaired or replaced, the archive is another input. After a transient error its listing is incomplete.

    Args:
        source: name of the folder that holds the archive; empty if the archive is itself the source.
    """
    scan.num_rejected_archives += 1
    code, message = rejection
    if code == UNREACHABLE:
        rejection = code, f"listing incomplete: {message}"
    key = key_of("whole", file.identity, file.num_bytes, file.mtime_ns, *rejection)
    if not scan.admit(key, num_bytes=0):
        return []
    return [
        ReplayInput(
            key=key,
            location_key=location_key_of(file.identity),
            source=source or file.name,
            member=-1,
            name=file.name,
            container=file.location,
            num_bytes=0,
            rejection=rejection,
        )
    ]
