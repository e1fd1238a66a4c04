"""`wm encode`: sources -> corpus, chunk by chunk, committed in order, resumable at any moment.

A feed scans the sources in order and cuts them into chunks. Each chunk is encoded into files of the corpus's folder,
in any process; the driver takes the results in order, drops games that the corpus already has, and commits. So the
corpus does not depend on the number of processes or on interruptions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.corpus.chunk import ChunkResult, EncodeOptions, store_files
from datasets.corpus.commit import Committer
from datasets.corpus.earlier_rejects import require_known
from datasets.corpus.maintenance.compact import reason_to_compact
from datasets.pipeline.encode_chunk import encode_chunk
from datasets.pipeline.feed import Feed, inputs_per_chunk
from datasets.pipeline.known_ids import known_ids
from datasets.runtime.errors import UserError
from datasets.runtime.process.termination import raise_if_terminated
from datasets.runtime.storage.folder import open_folder
from datasets.runtime.uris import without_credentials
from datasets.sources.scan import Survey, survey
from datasets.sources.storage import is_remote, local_path

MAX_UNREAD_SHOWN = 10
"""Inputs that could not be read and are named at the end of a run."""

RunChunks = Callable[[Feed], Generator[ChunkResult]]
"""Runs `encode_chunk` over a feed's chunks, anywhere, and yields the results in order."""


@dataclass(kw_only=True)
class EncodeSummary:
    """What one run of `wm encode` has done so far."""

    num_inputs: int = 0
    """Inputs that became a game or a reject, in this run or an earlier one."""
    num_already_done: int = 0
    """Of those, the ones of earlier runs."""
    num_games: int = 0
    num_frames: int = 0
    num_replaced: int = 0
    """Games of an older pipeline that were replaced by their .slp."""
    num_ignored_files: int = 0
    num_unread: int = 0
    """Inputs that could not be read in this run, and folders and archives whose listing is incomplete."""
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Label and message of the first MAX_UNREAD_SHOWN of them."""
    num_bytes: int = 0
    """Bytes of the sources that have been processed or skipped."""
    num_bytes_done: int = 0
    """Of those, the bytes of inputs of earlier runs."""
    rejects: Counter = field(default_factory=Counter)
    reason_to_compact: str | None = None
    """Why `wm corpus compact` would be worthwhile."""
    seconds: float = 0.0


def encode_in_process(feed: Feed) -> Generator[ChunkResult]:
    """Encode in this process: the reference for `datasets.pipeline.ray_encode.encode_on_ray`."""
    folder = open_folder(feed.out)
    for chunk in feed.chunks():
        result = encode_chunk(replace(chunk, known_games=feed.known_games))
        store_files(result, Path(feed.staging), folder)
        yield result


def encode(
    sources: Sequence[str | Path],
    out: str | Path,
    options: EncodeOptions,
    run_chunks: RunChunks,
    on_commit: Callable[[EncodeSummary, int], None] = lambda summary, bytes_left: None,
    retry: Sequence[str] = (),
) -> EncodeSummary:
    """Encode the inputs that the corpus does not have yet.

    An exception, also KeyboardInterrupt or SystemExit, stops the workers and leaves a corpus that the same call
    resumes.

    Args:
        sources: paths or URIs of folders, replays and archives (`datasets.sources`).
        out: path or URI of the corpus.
        on_commit: called after each commit with the summary so far and the remaining bytes of the sources.
        retry: reason codes of rejects whose inputs are encoded again. So are, without being asked to, rejects for which
            another version of this project may have been at fault (`datasets.corpus.earlier_rejects`).
    Raises:
        UserError: the sources contain no input, `out` is not a corpus or was made with other options, its disk is
            full, or no game was found.
    """
    started = time.monotonic()
    locations = tuple(_absolute(str(source)) for source in sources)
    location = str(out) if is_remote(str(out)) else _absolute(str(out))
    require_known(retry)
    found = survey(locations)
    with _full_disk_as_user_error(location), Committer(location, options, retry=retry) as committer:
        feed = Feed(
            sources=locations,
            done=committer.done_keys(),
            chunk_inputs=inputs_per_chunk(found.num_inputs),
            out=location,
            staging=str(committer.staging),
            options=options,
            archives=found.archives,
            ranged_sources=found.ranged_sources,
            known_games=known_ids(committer.known_game_ids()),
        )
        with contextlib.closing(run_chunks(feed)) as results:
            summary = _commit_all(results, committer, found, on_commit)
        committer.finish()
    summary.reason_to_compact = reason_to_compact(committer.state)
    summary.seconds = time.monotonic() - started
    if not committer.num_games and not summary.num_unread:
        raise UserError(_no_games_message(summary, committer.reject_counts, without_credentials(location)))
    return summary


def _commit_all(
    results: Iterator[ChunkResult],
    committer: Committer,
    found: Survey,
    on_commit: Callable[[EncodeSummary, int], None],
) -> EncodeSummary:
    started = time.monotonic()
    summary = EncodeSummary()
    for result in results:
        summary.num_ignored_files += result.skipped.num_ignored
        summary.num_already_done += result.skipped.num_done
        summary.num_inputs += result.skipped.num_done + len(result.keys)
        summary.num_bytes += result.skipped.num_bytes + result.num_bytes
        summary.num_bytes_done += result.skipped.num_bytes
        summary.num_unread += len(result.unread)
        summary.unread += result.unread[: MAX_UNREAD_SHOWN - len(summary.unread)]
        if result.keys or result.locations:
            outcome = committer.add(result)
            summary.num_games += outcome.num_games
            summary.num_frames += outcome.num_frames
            summary.num_replaced += outcome.num_replaced
            summary.rejects.update(outcome.rejects)
        summary.seconds = time.monotonic() - started
        on_commit(summary, max(0, found.num_bytes - summary.num_bytes))
        raise_if_terminated()
    return summary


def _no_games_message(summary: EncodeSummary, reject_counts: Counter, out: str) -> str:
    reasons = ", ".join(f"{count} {code}" for code, count in reject_counts.most_common())
    return f"none of {summary.num_inputs} inputs is a training game ({reasons}); `wm corpus info {out}` lists them"


def _absolute(source: str) -> str:
    """The same source for a process with another working directory."""
    path = local_path(source)
    return path if is_remote(path) else os.path.abspath(path)


@contextlib.contextmanager
def _full_disk_as_user_error(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        mount = Path(out).resolve()
        while not mount.is_mount():
            mount = mount.parent
        raise UserError(
            f"cannot write to {out}: {os.strerror(error.errno).lower()} on the disk mounted at {mount}; free some "
            "space there and run the same command again to resume"
        ) from error
