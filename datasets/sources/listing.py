"""From a source to its inputs: what each file in it is, and who opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from datasets.legacy.meta_json import Metadata
from datasets.runtime.object_storage import is_remote
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archive_members import SourceScan, rejected_archive, too_large
from datasets.sources.folders import Entry, files
from datasets.sources.inputs import ReplayInput
from datasets.sources.names import META_NAME, key_of, kind_of, parsed_root
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.sevenzip import list_7z
from datasets.sources.storage import open_file, sibling_location
from datasets.sources.tars import list_tar, stream_tar
from datasets.sources.zips import list_zip

OPENERS: dict[str, Callable[[StoredFile, SourceScan], Iterator[ReplayInput]]] = {
    ".zip": list_zip, ".7z": list_7z, ".tar": list_tar, ".tar.gz": stream_tar, ".tgz": stream_tar,
    ".tar.zst": stream_tar, ".tzst": stream_tar,
}  # fmt: skip
"""Suffix -> what lists an archive's members."""


def inputs_of(source: str, walk: SourceScan) -> Iterator[ReplayInput]:
    """The inputs of a source that the walk wants, in an order that depends on names alone."""
    listing = _Listing(walk)
    for number, entry in enumerate(files(source)):
        yield from listing.inputs(number, entry)


class _Listing:
    """What is known while the files of one source pass by: the `meta.json` of the folder of parsed games at hand."""

    def __init__(self, walk: SourceScan) -> None:
        self._walk = walk
        self._root: str | None = None
        self._table = Metadata()

    def inputs(self, number: int, entry: Entry) -> Iterator[ReplayInput]:
        """The inputs of one file."""
        kind = "whole" if entry.is_whole else kind_of(entry.path)
        if kind in ("ignored", "meta"):
            self._walk.ignore(entry.path)
        elif kind == "archive" and entry.rejection is None:
            suffix = next(suffix for suffix in OPENERS if entry.path.lower().endswith(suffix))
            opener = stream_tar if suffix == ".tar" and is_remote(entry.file.location) else OPENERS[suffix]
            yield from opener(entry.file, self._walk)
        elif kind in ("slp", "parsed"):
            yield from self._file(number, entry, is_parsed=kind == "parsed")
        else:
            rejection = entry.rejection or (
                "unopenable",
                "an archive of a kind that is not read; repack it as .zip or .7z",
            )
            yield from rejected_archive(self._walk, entry.file, rejection, entry.source)

    def _file(self, number: int, entry: Entry, *, is_parsed: bool) -> Iterator[ReplayInput]:
        file = entry.file
        rejection = entry.rejection or too_large(file.num_bytes)
        key = key_of("file", file.identity, file.num_bytes, file.mtime_ns, *(entry.rejection or ()))
        if not self._walk.wants(key, num_bytes=file.num_bytes):
            return
        meta: dict[str, Any] | None = None
        if is_parsed and self._walk.reads_contents:
            root = parsed_root(entry.path)
            if root != self._root:
                self._root, self._table = root, Metadata()
                yield from self._read_meta(entry)
            meta = self._table.get(entry.path[-32:])
        yield ReplayInput(
            key=key,
            source=entry.source,
            member=number,
            name=entry.path[-32:] if is_parsed else entry.name,
            container=file.location,
            num_bytes=file.num_bytes,
            kind="parsed" if is_parsed else "slp",
            meta=meta,
            rejection=rejection,
        )

    def _read_meta(self, game: Entry) -> Iterator[ReplayInput]:
        """Fill the table from the `meta.json` beside the folder of a parsed game; without one it stays empty."""
        location = sibling_location(game.file.location, 2, META_NAME)
        try:
            with open_file(location) as file:
                self._table.read(file)
        except FileNotFoundError:
            return
        except DAMAGE as error:
            code, message = rejection_of(error)
            meta = StoredFile(location, sibling_location(game.file.identity, 2, META_NAME), META_NAME, 0, 0)
            yield from rejected_archive(self._walk, meta, (code, f"{META_NAME}: {message}"), game.source)
