"""The unit of work of an encode: the options, and what one chunk of inputs becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.checks.filters import FilterConfig
from datasets.corpus.state import FileRecord
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.schema.optional_tables import OptionalTable
from datasets.sources.inputs import SkipStats


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeOptions:
    """Options that determine a corpus's content. The corpus stores them, and every later run must use the same."""

    filters: FilterConfig = field(default_factory=FilterConfig)
    """Which games are accepted."""
    repair_old: bool = False
    """Read Slippi 3.0 to 3.6 too, whose event streams must be rewritten first (`docs/reliability.md`)."""
    keep_paths: bool = False
    """Store file paths, which may contain players' connect codes."""
    tables: tuple[OptionalTable, ...] = ()
    """Also store items (projectiles and what is thrown) and stage (platforms, wind, transformations), where a replay
    records them: about a byte a frame."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(sorted(set(self.tables))))  # the same corpus in whatever order


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkResult:
    """The outcome of a chunk. Its files are in the corpus's folder already, but belong to the corpus once committed."""

    keys: tuple[str, ...]
    """Keys of its inputs, without the unread ones."""
    num_bytes: int
    """Bytes that its inputs occupy in their containers."""
    skipped: SkipStats
    """What the scan skipped on its way to the chunk's last input."""
    games: list[dict[str, Any]]
    """Rows of the games table."""
    rejects: list[dict[str, Any]]
    """Rows of the rejects table."""
    files: dict[str, FileRecord] = field(default_factory=dict)
    """Table -> the file of it that holds the rows of the chunk's games; all have the name of the shard of frames."""
    locations: frozenset[str] = frozenset()
    """Location keys of its inputs, without the unread ones, and of archives that were listed whole: earlier rejects of
    these places are superseded."""
    unread: tuple[tuple[str, str], ...] = ()
    """Label and message of inputs that could not be read in this run; the next run tries them again."""


def staged_path(staging: Path, table: str, name: str) -> Path:
    """Where a worker writes a data file, before `store_files` puts it into the corpus."""
    return staging / f"{table}-{name}"


def store_files(result: ChunkResult, staging: Path, folder: Folder) -> None:
    """Move a chunk's files into the corpus's folder, or upload them.

    Raises:
        UserError: the storage cannot be reached.
        OSError: of the disk, such as one that is full.
    """
    try:
        for table, record in result.files.items():
            folder.upload(staged_path(staging, table, record.name), f"{table}/{record.name}", move=True)
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"cannot write to {folder.location}: {error}; run the same command again to resume") from error
