"""Where replays lie: folders, replays and archives, local or remote, walked lazily as inputs to read one by one.

Everything that turns a source into inputs is in this package; what is in it knows nothing of games.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import is_remote, stat_remote
from datasets.sources.archive_members import SourceScan
from datasets.sources.inputs import ReplayInput, SkipStats
from datasets.sources.listing import inputs_of
from datasets.sources.names import ARCHIVE_SUFFIXES, REPLAY_SUFFIXES, kind_of
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.storage import local_path

EXPECTED = f"expected a folder, {', '.join((*REPLAY_SUFFIXES, *ARCHIVE_SUFFIXES))}"
CREDENTIALS = re.compile(r"(?<=://).*@|\?.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """How much the sources hold."""

    num_inputs: int
    """Exact, but for archives that can only be read from their start: those are counted by their size."""
    num_bytes: int
    """In the measure of `ReplayInput.num_bytes` and `SkipStats.num_bytes`."""


class Inputs:
    """The inputs of some sources, found while they are iterated over, in an order that depends on names alone.

    Memory does not grow with what the sources hold, but for a dozen bytes of each input's key: of two inputs with the
    same key the second is left out. What goes wrong with a file or an archive becomes an input with a rejection.
    """

    def __init__(self, sources: Sequence[str], is_done: Callable[[str], bool]) -> None:
        """Args:
        sources: paths or URIs.
        is_done: whether an input of that key need not be yielded.
        """
        self._sources = tuple(sources)
        self._walk = SourceScan(is_done)

    def __iter__(self) -> Iterator[ReplayInput]:
        for source in self._sources:
            yield from inputs_of(source, self._walk)

    def drain_skipped(self) -> SkipStats:
        """What was passed over since the last call."""
        return self._walk.drain_skipped()


def survey(sources: Sequence[str]) -> Survey:
    """Look over the sources before anything is read. Archives are opened for their directories, none is unpacked.

    Raises:
        UserError: a source does not exist, cannot be reached, or is of an unknown kind; or nothing was found.
    """
    walk = SourceScan(lambda key: False, reads_contents=False)
    num_inputs = num_bytes = 0
    for source in sources:
        _check(source)
        for replay in inputs_of(source, walk):
            num_inputs += 1
            num_bytes += replay.num_bytes
    num_inputs += walk.estimated_inputs
    if not num_inputs:
        named = ", ".join(_shown(source) for source in sources)
        raise UserError(f"no {', '.join((*REPLAY_SUFFIXES, *ARCHIVE_SUFFIXES))} and no games/ found in {named}")
    return Survey(num_inputs=num_inputs, num_bytes=num_bytes + walk.estimated_bytes)


def _check(source: str) -> None:
    """Refuse a source that is not there, or is a file of an unknown kind."""
    path = local_path(source)
    if is_remote(path):
        is_folder = _check_remote(source)
    else:
        if not os.path.exists(path):
            raise UserError(f"source {source} does not exist; {EXPECTED}")
        is_folder = os.path.isdir(path)
    kind = kind_of(path.partition("?")[0] if is_remote(path) else path)
    if not is_folder and kind not in ("slp", "archive"):
        raise UserError(f"source {_shown(source)} is of no known kind; {EXPECTED}")


def _check_remote(source: str) -> bool:
    try:
        return stat_remote(source)[0]
    except FileNotFoundError:
        raise UserError(f"source {_shown(source)} does not exist; {EXPECTED}") from None
    except DAMAGE as error:
        raise UserError(
            f"source {_shown(source)} cannot be reached ({rejection_of(error)[1]}); expected an address that can be "
            "read from here, with credentials in the environment where it needs some"
        ) from error


def _shown(source: str) -> str:
    """A source as a message shows it: without credentials."""
    return CREDENTIALS.sub("", source)
