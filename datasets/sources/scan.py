"""From sources to inputs: each file of a source becomes an input, or is opened as an archive of inputs."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from datasets.legacy.meta_json import Metadata
from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import stat_remote
from datasets.runtime.stored_file import StoredFile
from datasets.runtime.uris import is_remote, without_credentials
from datasets.sources.archives.decompress import too_large
from datasets.sources.archives.members import fill_table, with_meta
from datasets.sources.archives.sevenzip import list_7z
from datasets.sources.archives.tars import list_tar, stream_tar
from datasets.sources.archives.zips import list_zip
from datasets.sources.folders import Entry, files
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.names import (
    ARCHIVE_SUFFIXES,
    META_NAME,
    REPLAY_SUFFIXES,
    key_of,
    kind_of,
    location_key_of,
    parsed_root,
    unsupported,
)
from datasets.sources.read_errors import READ_ERRORS, is_refusal, is_transient, rejection_of
from datasets.sources.scan_state import MAX_DICTIONARY_BYTES, SourceScan, rejected_archive
from datasets.sources.storage import local_path, open_file, retry_transient, sibling_location

ARCHIVE_READERS: dict[str, Callable[[StoredFile, SourceScan], Iterator[ReplayInput]]] = {
    ".zip": list_zip, ".7z": list_7z, ".tar": list_tar, ".tar.gz": stream_tar, ".tgz": stream_tar,
    ".tar.zst": stream_tar, ".tzst": stream_tar,
}  # fmt: skip
SEQUENTIAL_READERS = (list_7z, stream_tar)
EXPECTED = f"expected a folder, {', '.join((*REPLAY_SUFFIXES, *ARCHIVE_SUFFIXES))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """How much the sources hold."""

    num_inputs: int
    """Exact, except for compressed and remote tars, which are counted by their size."""
    num_bytes: int
    """In the unit of `ReplayInput.num_bytes` and `SkipStats.num_bytes`."""
    archives: tuple[StoredFile, ...] = ()
    """Archives that can only be read from their start, in the order of the scan."""
    ranged_sources: tuple[str, ...] = ()
    """Sources with anything else: inputs that are read by path or byte range where they are encoded."""


class Inputs:
    """The inputs of some sources, found while they are iterated over, in an order that depends on names alone.

    Of two inputs with the same key the second is left out. An error of a file or an archive becomes an input with a
    rejection. Memory: about 90 bytes for each input, and the directory of the archive at hand.
    """

    def __init__(
        self, sources: Sequence[str], is_done: Callable[[str], bool], dictionary_bytes: int = MAX_DICTIONARY_BYTES
    ) -> None:
        """Args:
        sources: paths or URIs.
        is_done: whether an input of that key is skipped.
        dictionary_bytes: see `SourceScan`.
        """
        self._sources = tuple(sources)
        self._scan = SourceScan(is_done, dictionary_bytes=dictionary_bytes)

    def __iter__(self) -> Iterator[ReplayInput]:
        for source in self._sources:
            yield from _inputs_of(source, self._scan)

    def without(self, archives: Collection[str]) -> Iterator[ReplayInput | StoredFile]:
        """The inputs in the same order, with archives, given by identity, as they are: `ArchiveInputs` reads them."""
        for source in self._sources:
            yield from _entries_of(source, _Listing(self._scan, separate=archives))

    def drain_skipped(self) -> SkipStats:
        """What was skipped since the last call."""
        return self._scan.drain_skipped()


class ArchiveInputs:
    """The inputs of single archives, found while they are iterated over; otherwise like `Inputs`."""

    def __init__(self, is_done: Callable[[str], bool], dictionary_bytes: int = MAX_DICTIONARY_BYTES) -> None:
        self._scan = SourceScan(is_done, dictionary_bytes=dictionary_bytes)

    def of(self, archive: StoredFile) -> Iterator[ReplayInput]:
        """The inputs of one archive."""
        return _archive_inputs(archive, self._scan)

    def drain_skipped(self) -> SkipStats:
        """What was skipped since the last call."""
        return self._scan.drain_skipped()


def survey(sources: Sequence[str]) -> Survey:
    """Count the inputs of the sources before anything is read. Only directories of archives are read.

    A source that cannot be reached for now counts as one input.

    Raises:
        UserError: a source does not exist, may not be read, or is of an unsupported kind; or nothing was found.
    """
    scan = SourceScan(lambda key: False, reads_contents=False)
    num_inputs = num_bytes = 0
    archives: dict[str, StoredFile] = {}
    ranged: list[str] = []
    for source in sources:
        try:
            check_source(source)
        except OSError:  # the scan names it as unread, unless it can be reached by then
            num_inputs += 1
            continue
        listing = _Listing(scan, found=archives)
        for replay in _entries_of(source, listing):
            assert isinstance(replay, ReplayInput)
            num_inputs += 1
            num_bytes += replay.num_bytes
        if listing.has_ranged:
            ranged.append(source)
    num_inputs += scan.estimated_inputs
    if not num_inputs:
        named = ", ".join(without_credentials(source) for source in sources)
        raise UserError(f"no {', '.join((*REPLAY_SUFFIXES, *ARCHIVE_SUFFIXES))} and no games/ found in {named}")
    return Survey(
        num_inputs=num_inputs,
        num_bytes=num_bytes + scan.estimated_bytes,
        archives=tuple(archives.values()),
        ranged_sources=tuple(ranged),
    )


def check_source(source: str) -> None:
    """Check that a source exists and can be reached.

    Raises:
        UserError: it does not exist, is of an unsupported kind, or its storage refuses the access.
        OSError: it cannot be reached for now.
    """
    path, shown = local_path(source), without_credentials(source)
    try:
        is_folder = retry_transient(path, partial(_is_folder, path))
    except FileNotFoundError:
        raise UserError(f"source {shown} does not exist; {EXPECTED}") from None
    except READ_ERRORS as error:
        reason = rejection_of(error, path)[1]
        if is_transient(error, path):
            raise OSError(f"source {shown} cannot be reached ({reason})") from error
        raise UserError(f"source {shown} cannot be opened ({reason}); {EXPECTED}") from error
    name = path.partition("?")[0] if is_remote(path) else path
    kind = kind_of(name)
    if is_folder or kind in ("slp", "archive"):
        return
    if kind in ("unsupported_archive", "unsupported_replay"):
        raise UserError(f"source {shown}: {unsupported(name)[1]}")
    raise UserError(f"source {shown} is of an unknown kind; {EXPECTED}")


def _is_folder(path: str) -> bool:
    """Whether a path or URI names a folder.

    Raises:
        UserError: the storage refuses the access, which waiting does not change.
    """
    try:
        return stat_remote(path)[0] if is_remote(path) else stat.S_ISDIR(os.stat(path).st_mode)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        if not is_remote(path) or not is_refusal(error):
            raise
        raise UserError(
            f"source {without_credentials(path)} cannot be reached ({rejection_of(error)[1]}); expected a URI that "
            "can be read from here, with credentials in the environment if it needs some"
        ) from error


def _inputs_of(source: str, scan: SourceScan) -> Iterator[ReplayInput]:
    for replay in _entries_of(source, _Listing(scan)):
        assert isinstance(replay, ReplayInput)
        yield replay


def _entries_of(source: str, listing: _Listing) -> Iterator[ReplayInput | StoredFile]:
    for number, entry in enumerate(files(source)):
        yield from listing.inputs(number, entry)


def _archive_reader(archive: StoredFile) -> Callable[[StoredFile, SourceScan], Iterator[ReplayInput]]:
    location = archive.identity if is_remote(archive.location) else archive.location
    suffix = next(suffix for suffix in ARCHIVE_READERS if location.lower().endswith(suffix))
    return stream_tar if suffix == ".tar" and is_remote(archive.location) else ARCHIVE_READERS[suffix]


def _archive_inputs(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    before = scan.num_rejected_archives
    yield from _archive_reader(archive)(archive, scan)
    if scan.num_rejected_archives == before:
        scan.note_listed(archive)


class _Listing:
    """Turns the files of one source into inputs; holds the `meta.json` of the current folder of parsed games."""

    def __init__(
        self, scan: SourceScan, *, separate: Collection[str] = (), found: dict[str, StoredFile] | None = None
    ) -> None:
        """Args:
        separate: identities of archives that are not read.
        found: gets the archives that can only be read from their start, by identity.
        """
        self.has_ranged = False
        self._scan = scan
        self._separate = separate
        self._found = {} if found is None else found
        self._root: str | None = None
        self._table = Metadata()

    def inputs(self, number: int, entry: Entry) -> Iterator[ReplayInput | StoredFile]:
        """The inputs of one file, or the file if it is an archive that is read separately."""
        kind = kind_of(entry.path)
        if entry.is_whole or (kind == "archive" and entry.rejection is not None):
            assert entry.rejection is not None
            yield from rejected_archive(self._scan, entry.file, entry.rejection, entry.source)
        elif kind in ("ignored", "meta"):
            self._scan.ignore(entry.path)
        elif kind == "archive":
            if _archive_reader(entry.file) in SEQUENTIAL_READERS:
                self._found.setdefault(entry.file.identity, entry.file)
            else:
                self.has_ranged = True
            is_separate = entry.file.identity in self._separate
            yield from [entry.file] if is_separate else _archive_inputs(entry.file, self._scan)
        elif kind in ("slp", "parsed"):
            self.has_ranged = True
            yield from self._file(number, entry, is_parsed=kind == "parsed")
        else:
            yield from rejected_archive(
                self._scan, entry.file, entry.rejection or unsupported(entry.path), entry.source
            )

    def _file(self, number: int, entry: Entry, *, is_parsed: bool) -> Iterator[ReplayInput]:
        file = entry.file
        rejection = entry.rejection or too_large(file.num_bytes)
        key = key_of("file", file.identity, file.num_bytes, file.mtime_ns, *(entry.rejection or ()))
        if not self._scan.admit(key, num_bytes=file.num_bytes):
            return
        table: Metadata | None = None
        if is_parsed and self._scan.reads_contents:
            root = parsed_root(entry.path)
            if root != self._root:
                self._root, self._table = root, Metadata()
                yield from self._read_meta(entry)
            table = self._table
        replay = ReplayInput(
            key=key,
            location_key=location_key_of(file.identity),
            source=entry.source,
            member=number,
            name=entry.path[-32:] if is_parsed else entry.name,
            container=file.location,
            num_bytes=file.num_bytes,
            kind="parsed" if is_parsed else "slp",
            rejection=rejection,
        )
        yield with_meta(replay, table)

    def _read_meta(self, game: Entry) -> Iterator[ReplayInput]:
        """Fill the table from the `meta.json` beside the folder of a parsed game; without one it stays empty."""
        location = sibling_location(game.file.location, 2, META_NAME)

        def read() -> None:
            with open_file(location) as file:
                self._table.read(file)

        with contextlib.suppress(FileNotFoundError):
            for rejection in fill_table(self._table, read):
                meta = StoredFile(location, sibling_location(game.file.identity, 2, META_NAME), META_NAME, 0, 0)
                yield from rejected_archive(self._scan, meta, rejection, game.source)
