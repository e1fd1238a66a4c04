"""What the name of a file or an archive's member says, what identifies an input, and what may be shown of a name."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

REPLAY_SUFFIXES = (".slp", ".slp.gz")
ARCHIVE_SUFFIXES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst")
"""What is opened, as a source or within a folder."""
OTHER_ARCHIVE_SUFFIXES = (".rar", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".slp.zst", ".slp.xz", ".slp.bz2")
"""What may hold replays but is not read: it is named, rather than ignored."""
META_NAME = "meta.json"
GAME_ID = re.compile(r"[0-9a-f]{32}")
"""Name of a game that an older pipeline parsed: the md5 of its .slp."""

PARSED = re.compile(r"(?P<root>(?:.*/)?)games/(?P<game_id>[0-9a-f]{32})", re.DOTALL)
DRIVE = re.compile(r"[A-Za-z]:")
RESOURCE_FORK = "._"
"""Beginning of the names that macOS gives to the companions it adds to archives."""

Kind = Literal["slp", "parsed", "meta", "archive", "other_archive", "ignored"]


def kind_of(name: str) -> Kind:
    """What a file or member is, by its name (path below its source, with slashes)."""
    base = name.rsplit("/", 1)[-1].lower()
    if base.startswith(RESOURCE_FORK):
        return "ignored"
    if base.endswith(REPLAY_SUFFIXES):
        return "slp"
    if base.endswith(ARCHIVE_SUFFIXES):
        return "archive"
    if base.endswith(OTHER_ARCHIVE_SUFFIXES):
        return "other_archive"
    if base == META_NAME:
        return "meta"
    return "parsed" if PARSED.fullmatch(name) else "ignored"


def parsed_root(name: str) -> str:
    """The folder above `games`, with its slash, of a parsed game's name."""
    match = PARSED.fullmatch(name)
    assert match is not None
    return match["root"]


def is_unsafe(name: str) -> bool:
    """Whether a member's name leads out of the folder into which its archive would be unpacked."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or DRIVE.match(name) is not None or ".." in parts or "\0" in name


def key_of(*parts: object) -> str:
    """Identity of an input in 24 hexadecimal digits: 96 bits of blake2b."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def readable(name: str | bytes) -> str:
    """A name that can be stored: bytes that are not UTF-8 become question marks."""
    content = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return content.decode("utf-8", "replace")
