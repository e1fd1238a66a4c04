"""From an input to its bytes, with reads of remote inputs running ahead."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from datasets.runtime.errors import ReplayError
from datasets.runtime.object_storage import is_remote
from datasets.sources import decompress
from datasets.sources.inputs import ReplayInput, TarMember, ZipMember
from datasets.sources.read_errors import DAMAGE, rejection_of
from datasets.sources.storage import forget_open_files, read_file
from datasets.sources.tars import read_tar_member
from datasets.sources.zips import read_zip_member

UNREACHABLE = "unreachable"
"""Reason code of inputs that could not be read for now: they are no part of the corpus, not even as rejects."""
RETRY_AFTER_S = (0.5, 3.0)
TRANSIENT_ERRNOS = frozenset({
    errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOMEM, errno.EAGAIN, errno.EBUSY,
    errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO,
})  # fmt: skip
"""Of a local or network disk: not the file's own fault."""
READS_AHEAD = 8
"""Remote reads under way at once."""
BYTES_AHEAD = 64 * 2**20
"""Stored bytes that reads under way may hold together."""


def read_input(replay: ReplayInput) -> bytes:
    """The bytes of one input: an uncompressed .slp, or a parsed game as the older pipeline stored it.

    Raises:
        ReplayError: `unopenable`, `too_large`, `wrong_size`, or the code of its rejection.
    """
    return _content(replay, partial(_stored, replay))


def read_ahead(inputs: Iterable[ReplayInput]) -> Iterator[tuple[ReplayInput, Callable[[], bytes]]]:
    """Each input with the function that gives its bytes or raises, as `read_input`.

    Local inputs are read when asked for. Of remote ones up to READS_AHEAD are being fetched, at most about
    BYTES_AHEAD together, so that the network's latency is waited for once; they are decompressed when asked for.
    """
    waiting: deque[tuple[ReplayInput, Callable[[], bytes]]] = deque()
    with ThreadPoolExecutor(READS_AHEAD, thread_name_prefix="read-ahead") as pool:
        try:
            num_bytes = 0
            for replay in inputs:
                fetch: Callable[[], bytes] = partial(_stored, replay)
                if is_remote(replay.container) and replay.content is None and replay.rejection is None:
                    future: Future[bytes] = pool.submit(fetch)
                    fetch = future.result
                waiting.append((replay, partial(_content, replay, fetch)))
                num_bytes += replay.num_bytes
                while len(waiting) >= READS_AHEAD or num_bytes > BYTES_AHEAD:
                    num_bytes -= waiting[0][0].num_bytes
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _stored(replay: ReplayInput) -> bytes:
    """The bytes as the container has them."""
    if replay.content is not None:
        return replay.content
    if isinstance(replay.byte_range, ZipMember):
        return read_zip_member(replay.container, replay.byte_range)
    if isinstance(replay.byte_range, TarMember):
        return read_tar_member(replay.container, replay.byte_range)
    return read_file(replay.container, replay.num_bytes, decompress.MAX_REPLAY_BYTES + 1)


def _content(replay: ReplayInput, fetch: Callable[[], bytes]) -> bytes:
    try:
        if replay.rejection is not None:
            raise ReplayError(*replay.rejection)
        content = _fetched(replay, fetch)
        if isinstance(replay.byte_range, ZipMember) and replay.content is None:
            content = decompress.unpack_member(content, replay.byte_range)
        name = replay.name if replay.kind == "slp" else ""
        return decompress.replay_content(content, name)
    except (ReplayError, MemoryError):
        raise
    except DAMAGE as error:
        raise ReplayError(*rejection_of(error)) from error


def _fetched(replay: ReplayInput, fetch: Callable[[], bytes]) -> bytes:
    """The stored bytes, tried again where the fault is the network's or the disk's and not the file's.

    Raises:
        ReplayError: code UNREACHABLE; it is still out of reach. A later run may read it.
    """
    for pause_s in (*RETRY_AFTER_S, None):
        try:
            return fetch()
        except OSError as error:
            if not _is_transient(replay, error):
                raise
            if pause_s is None:
                raise ReplayError(UNREACHABLE, rejection_of(error)[1]) from error
            time.sleep(pause_s)
            forget_open_files()
            fetch = partial(_stored, replay)
    raise AssertionError("the last try returns or raises")


def _is_transient(replay: ReplayInput, error: OSError) -> bool:
    if is_remote(replay.container):
        return not isinstance(error, (FileNotFoundError, PermissionError))
    return error.errno in TRANSIENT_ERRNOS
