"""Classifies files and archive members by name, and computes the keys that identify inputs."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

REPLAY_SUFFIXES = (".slp", ".slp.gz")
ARCHIVE_SUFFIXES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")
"""Archives that are read, as a source or within a folder."""
UNSUPPORTED_ARCHIVE_SUFFIXES = (".rar", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
"""Archives that may hold replays but are not read: each is rejected, rather than ignored."""
UNSUPPORTED_REPLAY_SUFFIXES = (".slpz", ".zlp", ".slp.zst", ".slp.xz", ".slp.bz2")
"""Compressed replays that are not read: each is rejected, rather than ignored."""
META_NAME = "meta.json"

PARSED = re.compile(r"(?P<root>(?:.*/)?)games/(?P<game_id>[0-9a-f]{32})", re.DOTALL)
DRIVE = re.compile(r"[A-Za-z]:")
RESOURCE_FORK = "._"
"""Prefix of the names of resource forks, which macOS adds to archives."""

Kind = Literal["slp", "parsed", "meta", "archive", "unsupported_archive", "unsupported_replay", "ignored"]


def kind_of(name: str) -> Kind:
    """Kind of a file or member, by its name (path below its source, with slashes)."""
    base = name.rsplit("/", 1)[-1].lower()
    if base.startswith(RESOURCE_FORK):
        return "ignored"
    if base.endswith(REPLAY_SUFFIXES):
        return "slp"
    if base.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    if base.endswith(UNSUPPORTED_ARCHIVE_SUFFIXES):
        return "unsupported_archive"
    if base.endswith(UNSUPPORTED_REPLAY_SUFFIXES):
        return "unsupported_replay"
    if base == META_NAME:
        return "meta"
    return "parsed" if PARSED.fullmatch(name) else "ignored"


def unsupported(name: str) -> tuple[str, str]:
    """The rejection of a file that may hold replays but cannot be read."""
    base = name.rsplit("/", 1)[-1].lower()
    suffix = next(
        suffix for suffix in UNSUPPORTED_ARCHIVE_SUFFIXES + UNSUPPORTED_REPLAY_SUFFIXES if base.endswith(suffix)
    )
    if suffix in UNSUPPORTED_ARCHIVE_SUFFIXES:
        return "unopenable", f"unsupported archive format {suffix}; repack it as .zip or .7z"
    return "unopenable", f"unsupported compressed replay {suffix}; decompress it to .slp"


def parsed_root(name: str) -> str:
    """The folder above `games`, with its slash, of a parsed game's name."""
    match = PARSED.fullmatch(name)
    assert match is not None
    return match["root"]


def is_unsafe(name: str) -> bool:
    """Whether a member's path leaves the folder into which its archive would be extracted."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or DRIVE.match(name) is not None or ".." in parts or "\0" in name


def location_key_of(*parts: object) -> str:
    """Identity of an input's place, whatever lies there: the path of a file; archive, number and name of a member."""
    return key_of("location", *parts)


def key_of(*parts: object) -> str:
    """Identity of an input in 24 hexadecimal digits: 96 bits of blake2b."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
