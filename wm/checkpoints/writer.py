"""Writes checkpoints during training: training waits for a copy to host memory, a thread does the rest.

A checkpoint that cannot be written is reported, and the next one is tried.
"""

from __future__ import annotations

import errno
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from wm.checkpoints.files import META_FILE, CheckpointName, DamagedCheckpointError, serialize
from wm.checkpoints.retention import retained
from wm.checkpoints.staging import Snapshot, Staging
from wm.checkpoints.store import CheckpointStore, reason_of

SKIPPED = "a checkpoint was skipped because the previous one was still being written; raise checkpoint.every_s"

RETRY_SECONDS = 1.0


class CheckpointWriter:
    """Writes a run's checkpoints to a store, one at a time, and deletes those that are not retained.

    Attributes:
        written: the last committed checkpoint of this writer.
        written_bytes: its size.
        blocked_s: seconds that the last `save` blocked training: on a CPU the copy, on a GPU queueing it.
        num_skipped: checkpoints not written because the previous one was still being written.
        num_failed: writes that failed.
    """

    def __init__(
        self,
        store: CheckpointStore,
        keep_last: int,
        on_problem: Callable[[str], None],
        before_commit: Callable[[], object] = lambda: None,
    ) -> None:
        """Delete what killed writers left in the store, and test that files can be written there.

        Args:
            keep_last: newest checkpoints to keep, in addition to the best by val_loss and by change_acc.
            on_problem: called once with each distinct message, also from the writing thread.
            before_commit: called by the writing thread before a checkpoint becomes visible; if it raises, the
                checkpoint is not written.
        Raises:
            UserError: nothing can be written to the store.
        """
        self._store = store
        try:
            self._store.prepare()
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {store.location} ({reason_of(error)}); {_remedy(error)}"
            ) from error
        self._keep_last, self._on_problem, self._before_commit = keep_last, on_problem, before_commit
        self._staging = Staging()
        self._reported: set[str] = set()
        self._metas: dict[CheckpointName, dict[str, Any] | None] = {}  # None: the checkpoint is damaged
        self._failure: Exception | None = None
        self.written: CheckpointName | None = None
        self.written_bytes: int | None = None
        self.blocked_s = 0.0
        self.num_skipped = self.num_failed = 0
        self._idle = threading.Event()
        self._idle.set()
        self._queue: queue.SimpleQueue[Snapshot | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def save(self, snapshot: Snapshot, *, wait: bool = False) -> bool:
        """Copy a snapshot and queue it for writing; training may continue at once.

        Args:
            wait: for the previous write and for this one: at the end of a run, or before a preemption.
        Returns:
            Whether it was queued: not if the previous write is still running and `wait` is not set.
        Raises:
            TypeError: the snapshot holds what a checkpoint cannot.
            UserError: with `wait`: it could not be written, tried for the store's `retry_s`. Older checkpoints are
                unchanged.
        """
        assert self._thread.is_alive(), "the writer is closed"
        if wait:
            self.wait()
        elif not self._idle.is_set():
            self.num_skipped += 1
            self._report(SKIPPED)
            return False
        started = time.monotonic()
        copied = self._staging.copy(snapshot)
        self.blocked_s = time.monotonic() - started
        deadline = started + self._store.retry_s
        self._enqueue(copied)
        if wait:
            self.wait()
            while isinstance(self._failure, OSError) and time.monotonic() < deadline:
                time.sleep(RETRY_SECONDS)
                self._enqueue(copied)
                self.wait()
            self._raise_failure(snapshot.meta["targets_seen"])
        return True

    def _enqueue(self, snapshot: Snapshot) -> None:
        self._idle.clear()
        self._queue.put(snapshot)

    def wait(self) -> None:
        """Wait for the running write; a failure has been reported by then."""
        self._idle.wait()

    def drop_after(self, targets_seen: int) -> None:
        """Delete checkpoints of more targets, so that a run that rolled back cannot resume from them.

        Raises:
            OSError: they cannot be deleted.
        """
        self.wait()
        for name in self._store.names():
            if name.targets_seen > targets_seen:
                self._store.remove(name)

    def close(self) -> None:
        """Finish the running write and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write_all(self) -> None:
        while (snapshot := self._queue.get()) is not None:
            try:
                self._failure = None
                self._write(snapshot)
            except Exception as error:  # training must go on after any error
                self._failure = error
                self.num_failed += 1
                self._report(
                    f"checkpoints cannot be written to {self._store.location} ({_stable_reason(error, snapshot)}); "
                    f"training continues and the next one is tried; {_remedy(error)}"
                )
            finally:
                self._idle.set()

    def _write(self, snapshot: Snapshot) -> None:
        snapshot.wait()
        meta: dict[str, Any] = {"tool_version": tool_version()} | snapshot.meta
        name = self._store.unused_name(meta["targets_seen"])
        self._store.commit(name, self._files(snapshot, meta))
        self._metas[name], self.written = meta, name
        try:
            self._prune(name)
        except OSError as error:
            reason = _stable_reason(error, snapshot)
            self._report(f"older checkpoints in {self._store.location} cannot be deleted ({reason})")

    def _files(self, snapshot: Snapshot, meta: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
        size = 0
        for name, content in serialize(snapshot.model_state, snapshot.config, meta, snapshot.resume):
            if name == META_FILE:
                self._before_commit()
            size += len(content)
            yield name, content
        self.written_bytes = size

    def _prune(self, newest: CheckpointName) -> None:
        """Delete checkpoints older than the newest that are not retained; the newest is known to be intact."""
        older = [name for name in self._store.names() if name < newest]
        unreadable = {name for name in older if not self._is_known(name)}
        metas = {name: meta for name in [*older, newest] if (meta := self._metas.get(name)) is not None}
        kept = retained(metas, self._keep_last) | unreadable
        for name in older:
            if name not in kept:
                self._store.remove(name)
                del self._metas[name]

    def _is_known(self, name: CheckpointName) -> bool:
        """Whether a checkpoint is known to be intact or damaged (None in `_metas`); other writers' are read once.

        False for checkpoints of another version, and for those that cannot be read at the moment.
        """
        if name not in self._metas:
            try:
                self._metas[name] = self._store.verified_meta(name)
            except DamagedCheckpointError:
                self._metas[name] = None
            except (UserError, OSError):
                return False
        return True

    def _raise_failure(self, targets_seen: int) -> None:
        error = self._failure
        if error is None:
            return
        if not isinstance(error, OSError):
            raise error
        newest = f"the newest one there is {self.written}" if self.written else "older ones are unchanged"
        raise UserError(
            f"the checkpoint at {targets_seen:,} targets could not be written to {self._store.location} "
            f"({reason_of(error)}); {newest}; {_remedy(error)}, then run the same command again to resume from it"
        ) from error

    def _report(self, message: str) -> None:
        """Report a message once; a failing `on_problem` must end neither the thread nor the run."""
        if message in self._reported:
            return
        self._reported.add(message)
        try:
            self._on_problem(message)
        except Exception as error:
            print(f"{message}\n(and it could not be logged: {type(error).__name__}: {error})", file=sys.stderr)


def _stable_reason(error: Exception, snapshot: Snapshot) -> str:
    """A reason that is the same for each checkpoint, so that it is reported once."""
    name = str(CheckpointName(snapshot.meta["targets_seen"]))
    reason = reason_of(error).replace(name, "targets-...")
    return reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}"


def _remedy(error: Exception) -> str:
    """What the user can do about a failed write."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free space on that disk"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "check the permissions there"
    return "check that it can be reached and written to, or set checkpoint.storage_path to another folder or URI"
