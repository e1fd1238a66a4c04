"""From an input to its bytes; remote inputs are fetched ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from datasets.runtime.errors import ReplayError
from datasets.runtime.uris import is_remote
from datasets.sources.archives import decompress
from datasets.sources.archives.tars import read_tar_member
from datasets.sources.archives.zips import read_zip_member
from datasets.sources.inputs import ReplayInput, TarMember, ZipMember
from datasets.sources.read_errors import READ_ERRORS, rejection_of
from datasets.sources.storage import close_cached_files, read_file, retry_transient

PREFETCH_READS = 8
"""Remote reads in flight at once."""
PREFETCH_BYTES = 64 * 2**20
"""Stored bytes of all reads in flight."""


def read_input(replay: ReplayInput) -> bytes:
    """The bytes of one input: an uncompressed .slp, or a parsed game as the older pipeline stored it.

    Raises:
        ReplayError: `unopenable`, `too_large`, `wrong_size`, the code of its rejection, or UNREACHABLE, also for a file
            that is gone since it was listed.
    """
    return _content(replay, partial(_stored, replay))


def read_ahead(inputs: Iterable[ReplayInput]) -> Iterator[tuple[ReplayInput, Callable[[], bytes]]]:
    """Each input with the function that returns its bytes or raises, as `read_input`.

    Local inputs are read when that function is called. Of remote ones up to PREFETCH_READS are fetched ahead, at most
    about PREFETCH_BYTES together, which hides the network's latency; they are decompressed when it is called.
    """
    waiting: deque[tuple[ReplayInput, Callable[[], bytes]]] = deque()
    with ThreadPoolExecutor(PREFETCH_READS, thread_name_prefix="read-ahead") as pool:
        try:
            num_bytes = 0
            for replay in inputs:
                fetch: Callable[[], bytes] = partial(_stored, replay)
                if is_remote(replay.container) and replay.content is None and replay.rejection is None:
                    future: Future[bytes] = pool.submit(fetch)
                    fetch = future.result
                waiting.append((replay, partial(_content, replay, fetch)))
                num_bytes += replay.num_bytes
                while len(waiting) >= PREFETCH_READS or num_bytes > PREFETCH_BYTES:
                    num_bytes -= waiting[0][0].num_bytes
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stored(replay: ReplayInput) -> bytes:
    """The bytes as the container stores them, read with retries."""
    return retry_transient(replay.container, partial(_read, replay), close_cached_files)


def _read(replay: ReplayInput) -> bytes:
    if replay.content is not None:
        return replay.content
    if isinstance(replay.byte_range, ZipMember):
        return read_zip_member(replay.container, replay.byte_range)
    if isinstance(replay.byte_range, TarMember):
        return read_tar_member(replay.container, replay.byte_range)
    return read_file(replay.container, decompress.MAX_REPLAY_BYTES + 1)


def _content(replay: ReplayInput, fetch: Callable[[], bytes]) -> bytes:
    try:
        if replay.rejection is not None:
            raise ReplayError(*replay.rejection)
        content = fetch()
        if isinstance(replay.byte_range, ZipMember) and replay.content is None:
            content = decompress.zip_content(content, replay.byte_range)
        name = replay.name if replay.kind == "slp" else ""
        return decompress.replay_content(content, name)
    except (ReplayError, MemoryError):
        raise
    except READ_ERRORS as error:
        raise ReplayError(*rejection_of(error)) from error
