"""Where replays lie: folders, .slp, .slp.gz, and zips of them, as a list of inputs to read one by one."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from datasets.errors import ReplayError, UserError

REPLAY_SUFFIXES = (".slp", ".slp.gz")
ARCHIVE_SUFFIX = ".zip"
MAX_REPLAY_BYTES = 128 * 2**20
"""Largest uncompressed replay that is read; the longest legal game, eight minutes, takes about 20 MB."""

DAMAGE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip
"""What the standard library raises on damaged, encrypted or changed files (found by random damage)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayInput:
    """One replay that may be read, and what identifies it in a later run."""

    key: str
    """Identity of this input: place, size, time or checksum."""
    source: str
    """Name of the archive or folder, without the folders above it."""
    member: int
    """Number of the file in its source, in listing order."""
    container: str
    """Path of the file itself, or of the zip that holds it."""
    name: str
    """Path below the source; may hold connect codes, so it is stored only on request."""
    in_zip: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What the sources hold."""

    inputs: tuple[ReplayInput, ...]
    num_ignored: int
    """Files that are neither replays nor archives."""
    broken_archives: tuple[tuple[str, str], ...]
    """(name, message) of archives that cannot be opened."""


def list_inputs(sources: Iterable[Path]) -> Listing:
    """Every replay in the sources, in an order that depends on names alone.

    Raises:
        UserError: a source does not exist, is of an unknown kind, or nothing at all was found.
    """
    inputs: list[ReplayInput] = []
    broken: list[tuple[str, str]] = []
    num_ignored = 0
    for source in sources:
        if not source.exists():
            raise UserError(f"source {source} does not exist; expected a folder, .slp, .slp.gz or .zip")
        if source.is_file() and not _is_taken(source):
            raise UserError(f"source {source} is of no known kind; expected a folder, .slp, .slp.gz or .zip")
        for number, path in enumerate(_files(source)):
            if path.name.endswith(ARCHIVE_SUFFIX):
                try:
                    members, ignored = _zip_members(path)
                except DAMAGE as error:
                    message = str(error).replace(str(path.resolve()), "the archive")
                    broken.append((path.name, f"{type(error).__name__}: {message}"))
                    continue
                inputs += members
                num_ignored += ignored
            elif path.name.endswith(REPLAY_SUFFIXES):
                inputs.append(_file_input(path, source, number))
            else:
                num_ignored += 1
    unique = {replay.key: replay for replay in inputs}
    if not unique and not broken:
        named = ", ".join(str(source) for source in sources)
        raise UserError(f"no .slp, .slp.gz or .zip found in {named}; name a folder or archive that holds replays")
    return Listing(inputs=tuple(unique.values()), num_ignored=num_ignored, broken_archives=tuple(broken))


def read_input(replay: ReplayInput) -> bytes:
    """The uncompressed bytes of one replay.

    Raises:
        ReplayError: code `unopenable`; the file is gone, cut off, encrypted, or larger than MAX_REPLAY_BYTES.
    """
    try:
        if replay.in_zip:
            archive, members = _open_zip(replay.container, Path(replay.container).stat().st_mtime_ns)
            with archive.open(members[replay.member]) as file:
                return _read_limited(file, replay.name)
        with open(replay.container, "rb") as file:
            return _read_limited(file, replay.name)
    except DAMAGE as error:
        raise ReplayError("unopenable", f"{type(error).__name__}: {_without(str(error), replay)}") from error


def _without(message: str, replay: ReplayInput) -> str:
    """An error's message without the file's name, which may hold connect codes."""
    for name in (replay.container, replay.name, Path(replay.name).name):
        message = message.replace(name, "the file")
    return message[:200]


def _read_limited(file, name: str) -> bytes:
    stream = gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file
    content = stream.read(MAX_REPLAY_BYTES + 1)
    if len(content) > MAX_REPLAY_BYTES:
        raise OSError(f"more than {MAX_REPLAY_BYTES // 2**20} MB uncompressed")
    return content


def _is_taken(path: Path) -> bool:
    return path.name.endswith((*REPLAY_SUFFIXES, ARCHIVE_SUFFIX))


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    else:
        yield from sorted(path for path in source.rglob("*") if path.is_file())


def _key(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _file_input(path: Path, source: Path, number: int) -> ReplayInput:
    stat = path.stat()
    resolved = path.resolve()
    return ReplayInput(
        key=_key("file", str(resolved), stat.st_size, stat.st_mtime_ns),
        source=source.resolve().name if source.is_dir() else resolved.parent.name,
        member=number,
        container=str(resolved),
        name=str(path.relative_to(source)) if source.is_dir() else path.name,
        in_zip=False,
    )


@lru_cache(maxsize=2)
def _open_zip(container: str, mtime_ns: int) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    """An archive and its files, kept open: reading the directory of 300,000 members takes over a second."""
    archive = zipfile.ZipFile(container)
    return archive, [info for info in archive.infolist() if not info.is_dir()]


def _zip_members(path: Path) -> tuple[list[ReplayInput], int]:
    resolved = path.resolve()
    _, members = _open_zip(str(resolved), resolved.stat().st_mtime_ns)
    replays = [
        ReplayInput(
            key=_key("zip", str(resolved), info.header_offset, info.filename, info.file_size, info.CRC),
            source=path.name,
            member=number,
            container=str(resolved),
            name=info.filename,
            in_zip=True,
        )
        for number, info in enumerate(members)
        if info.filename.endswith(REPLAY_SUFFIXES)
    ]
    return replays, len(members) - len(replays)
