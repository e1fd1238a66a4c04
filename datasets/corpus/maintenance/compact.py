"""`wm corpus compact`: merges small files of a finished corpus, and drops the rows of removed games."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.corpus.commit import Committer
from datasets.corpus.maintenance.stored_corpus import read_stored, require_writable
from datasets.corpus.merge import Limits
from datasets.corpus.state import FRAMES, CorpusState
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import open_folder

COMPACT = Limits(small_bytes=64 << 20, max_bytes=None, purge=True)
"""The limits of a merge."""
SMALL_SHARD_BYTES = 4 << 20
"""Reading a smaller shard from a bucket takes longer to begin than to transfer."""
MANY_SMALL_SHARDS = 100
LARGE_DEAD_PART = 0.1
"""Of the rows of all shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactReport:
    """The result of `compact`."""

    location: str
    num_files_before: int
    num_files: int

    @property
    def text(self) -> str:
        """The report as text."""
        return f"{self.location}: {self.num_files_before:,} data files merged into {self.num_files:,}"


def compact(location: str | Path) -> CompactReport:
    """Merge small files of a finished corpus into files of about 96 MB, and drop the rows of removed games.

    Training runs that have the corpus open will miss the old files.

    Raises:
        UserError: it is not a corpus, has another format version, or is being written.
    """
    folder = open_folder(location)
    stored = read_stored(folder)
    if stored.problems:
        raise UserError(str(stored.problems[0].message))
    require_writable(stored, folder)
    num_before = len(stored.state.paths())
    with Committer(location, stored.state.options) as committer:
        committer.merge(COMPACT, all_files=True)
        committer.finish(COMPACT)
    return CompactReport(location=folder.location, num_files_before=num_before, num_files=len(committer.state.paths()))


def reason_to_compact(state: CorpusState) -> str | None:
    """Why `wm corpus compact` is worth its time, a third of that of encoding; None if it is not."""
    shards = state.files.get(FRAMES, ())
    num_small = sum(record.num_bytes < SMALL_SHARD_BYTES for record in shards)
    if num_small >= MANY_SMALL_SHARDS:
        return f"{num_small:,} of {len(shards):,} shards are smaller than {SMALL_SHARD_BYTES >> 20} MB"
    num_rows = sum(record.rows for record in shards)
    if (num_dead := num_rows - state.num_frames) > LARGE_DEAD_PART * num_rows:
        return f"{num_dead / num_rows:.0%} of the rows in its shards are of games that were replaced"
    return None
