"""Checkpoints written while training goes on: a run is held up by a copy to host memory, a thread does the rest.

What goes wrong is told, and tried again with the next checkpoint.
"""

from __future__ import annotations

import errno
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets.runtime.errors import UserError
from wm.checkpoints.files import DamagedCheckpointError, Name, sealed_files
from wm.checkpoints.integrity import sound_meta
from wm.checkpoints.retention import kept_of
from wm.checkpoints.staging import Snapshot, StagedCopy, Staging
from wm.checkpoints.stores import place_at, reason_of

__all__ = ["CheckpointWriter", "Snapshot", "Written"]

SKIPPED = "a checkpoint was skipped, as the one before was still being written; raise checkpoint.every_s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A checkpoint that is whole and there."""

    name: str
    targets_seen: int
    num_bytes: int
    seconds: float
    """Of writing, beside the training."""


class CheckpointWriter:
    """Writes a run's checkpoints to a folder or URI, one at a time, and deletes what is not to be kept.

    Attributes:
        written: the last checkpoint that was committed.
        held_s: seconds for which the last `save` held up the run: on a CPU the copy, on a GPU queueing it.
        num_written: checkpoints committed, of this writer.
        num_skipped: checkpoints not written because the one before was still under way.
        num_failed: checkpoints that could not be written.
    """

    def __init__(self, place: str | Path, keep_last: int, on_problem: Callable[[str], None]) -> None:
        """Delete what killed writers left at the place, and try to write there.

        Args:
            place: folder, or URI such as s3://bucket/run.
            keep_last: newest checkpoints to keep, beside the best by val_loss and by change_acc.
            on_problem: takes each distinct message once; called by the thread that writes, too.
        Raises:
            UserError: nothing can be written to the place.
        """
        self._place = place_at(place)
        try:
            self._place.prepare()
        except OSError as error:
            raise UserError(
                f"checkpoints cannot be written to {self._place.shown} ({reason_of(error)}); {_way_on(error)}"
            ) from error
        self._keep_last, self._on_problem = keep_last, on_problem
        self._staging = Staging()
        self._told: set[str] = set()
        self._metas: dict[Name, dict[str, Any] | None] = {}  # what is known of what is there; None: it is damaged
        self._failure: Exception | None = None
        self.written: Written | None = None
        self.held_s = 0.0
        self.num_written = self.num_skipped = self.num_failed = 0
        self._idle = threading.Event()
        self._idle.set()
        self._queue: queue.SimpleQueue[StagedCopy | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def save(self, snapshot: Snapshot, *, wait: bool = False) -> bool:
        """Copy a snapshot and have it written; training may go on at once.

        Args:
            wait: for the write under way, and for this one: at the end of a run, or before its machine goes.
        Returns:
            Whether it is taken: not where the write before is still under way and `wait` is not set.
        Raises:
            TypeError: the snapshot holds what a checkpoint cannot.
            UserError: with `wait`: it could not be written. What was there before still is.
        """
        assert self._thread.is_alive(), "the writer is closed"
        if wait:
            self.wait()
        elif not self._idle.is_set():
            self.num_skipped += 1
            self._tell(SKIPPED)
            return False
        began = time.monotonic()
        staged = self._staging.copy(snapshot)
        self.held_s = time.monotonic() - began
        self._idle.clear()
        self._queue.put(staged)
        if wait:
            self.wait()
            self._raise_failure(snapshot.meta["targets_seen"])
        return True

    def wait(self) -> None:
        """Until nothing is under way any more; a write that failed has been told."""
        self._idle.wait()

    def drop_after(self, targets_seen: int) -> None:
        """Delete checkpoints of more targets: a run that goes back must not be resumed from what it went back on.

        Raises:
            OSError: they cannot be deleted.
        """
        self.wait()
        for name in self._place.names():
            if name.targets_seen > targets_seen:
                self._place.remove(name)

    def close(self) -> None:
        """Finish what is under way and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write_all(self) -> None:
        while (staged := self._queue.get()) is not None:
            try:
                self._failure = None
                self._write(staged)
            except Exception as error:  # whatever it is, the run must go on
                self._failure = error
                self.num_failed += 1
                self._tell(
                    f"checkpoints cannot be written to {self._place.shown} ({self._reason(error, staged)}); training "
                    f"goes on and the next one is tried; {_way_on(error)}"
                )
            finally:
                self._idle.set()

    def _write(self, staged: StagedCopy) -> None:
        began = time.monotonic()
        snapshot = staged.arrived()
        targets_seen = snapshot.meta["targets_seen"]
        name = self._place.free_name(targets_seen)
        files = sealed_files(snapshot.model_state, snapshot.config, snapshot.meta, snapshot.resume)
        num_bytes = self._place.commit(name, files)
        self._metas[name] = snapshot.meta
        self.num_written += 1
        self.written = Written(
            name=str(name), targets_seen=targets_seen, num_bytes=num_bytes, seconds=time.monotonic() - began
        )
        try:
            self._prune(name)
        except OSError as error:
            self._tell(f"older checkpoints in {self._place.shown} cannot be deleted ({self._reason(error, staged)})")

    def _prune(self, newest: Name) -> None:
        """Delete what is older than the newest and not to be kept; what was written just now is known to be sound."""
        older = [name for name in self._place.names() if name < newest]
        untouched = {name for name in older if not self._is_known(name)}
        metas = {name: meta for name in [*older, newest] if (meta := self._metas.get(name)) is not None}
        kept = kept_of(metas, self._keep_last) | untouched
        for name in older:
            if name not in kept:
                self._place.remove(name)
                del self._metas[name]

    def _is_known(self, name: Name) -> bool:
        """Whether it is known to be sound, or damaged (None in `_metas`); what another writer left is read once.

        False for what another version wrote, and for what cannot be read for now.
        """
        if name not in self._metas:
            try:
                self._metas[name] = sound_meta(self._place, name)
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
        there = f"the newest that is there is {self.written.name}" if self.written else "older ones are untouched"
        raise UserError(
            f"the checkpoint at {targets_seen:,} targets could not be written to {self._place.shown} "
            f"({reason_of(error)}); {there}; {_way_on(error)}, then run the same command again to go on from it"
        ) from error

    def _tell(self, message: str) -> None:
        """Tell a message once; who cannot take it must not end the thread, nor the run."""
        if message in self._told:
            return
        self._told.add(message)
        try:
            self._on_problem(message)
        except Exception as error:
            print(f"{message}\n(and it could not be logged: {type(error).__name__}: {error})", file=sys.stderr)

    def _reason(self, error: Exception, staged: StagedCopy) -> str:
        """A reason that does not change from checkpoint to checkpoint, so that it is told once."""
        name = str(Name(staged.snapshot.meta["targets_seen"]))
        reason = reason_of(error).replace(name, "targets-...")
        return reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}"


def _way_on(error: Exception) -> str:
    """What the user can do about it."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that disk"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give yourself the right to write there"
    return "see that it can be reached and written to, or name another place in checkpoint.storage_path"
