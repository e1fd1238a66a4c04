"""The unit of work of an encode: the options, and what one chunk of inputs becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datasets.checks.filters import FilterConfig
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkResult:
    """The outcome of a chunk. Its files stay in the staging folder until they are committed."""

    keys: tuple[str, ...]
    """Keys of its inputs, without the unread ones."""
    num_bytes: int
    """Bytes that its inputs occupy in their containers."""
    skipped: SkipStats
    """What the scan skipped on its way to the chunk's last input."""
    games: list[dict[str, Any]]
    """Rows of the games table, without `shard`."""
    rejects: list[dict[str, Any]]
    """Rows of the rejects table."""
    frames_file: str | None
    """Name in the staging folder; None without games."""
    followers_file: str | None
    """Name in the staging folder; None without Ice Climbers' partners."""
    staged_files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of a staged file -> its rows, bytes and checksum, computed by the worker that wrote it."""
    locations: frozenset[str] = frozenset()
    """Location keys of its inputs, without the unread ones, and of archives that were listed whole: earlier rejects of
    these places are superseded."""
    unread: tuple[tuple[str, str], ...] = ()
    """Label and message of inputs that could not be read in this run; the next run tries them again."""
