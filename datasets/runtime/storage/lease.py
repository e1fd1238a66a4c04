"""A lock in a bucket: an object that names its holder and is rewritten every few seconds while it is held.

It is created and replaced by conditional writes, so of several processes that take it one succeeds. A holder that could
not renew it for LEASE_SECONDS loses it to the next one, and its process ends when it finds out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import BucketFolder, VersionConflictError

RENEW_SECONDS = 5.0
LEASE_SECONDS = 30.0
"""A lock that was not renewed for so long is free: its holder was killed."""
POLL_SECONDS = 1.0


def end_process(message: str) -> None:
    """End this process at once; nothing is written any more."""
    print(message, file=sys.stderr, flush=True)
    os._exit(2)


class Lease:
    """A held lock."""

    def __init__(
        self,
        folder: BucketFolder,
        name: str,
        owner: str,
        held_message: str,
        on_lost: Callable[[str], None] = end_process,
    ) -> None:
        """Take the lock, after waiting for the end of a lease whose holder does not renew it.

        Args:
            owner: may take over the lock of an earlier holder with the same owner.
            held_message: message of the error if another owner holds the lock.
            on_lost: called, by a thread, if another process has taken the lock.
        Raises:
            UserError: another owner holds the lock, and renews it; or the server ignores the conditions of writes.
            OSError: the lock cannot be read or written.
        """
        self._folder, self._name, self._owner, self._on_lost = folder, name, owner, on_lost
        self._holder, self._num_renewals = uuid.uuid4().hex, 0
        self._version = self._acquire(held_message)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._renew_repeatedly, name="lock-renewal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release the lock; if the storage is away, it is free when the lease ends."""
        self._is_closed.set()
        self._thread.join()
        with suppress(OSError, UserError):
            if self._read()[0].get("holder") == self._holder:
                self._folder.delete([self._name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _acquire(self, held_message: str) -> dict[str, str]:
        """Create the lock, or replace one that is free; returns its version."""
        while True:
            try:
                self._folder.create(self._name, self._content())
            except FileExistsError:
                pass
            else:
                self._require_exclusive_creation()
                return self._read()[1]
            try:
                held, version = self._read()
                if held.get("owner") != self._owner and not self._is_abandoned(version):
                    raise UserError(held_message)
                return self._folder.replace_version(self._name, self._content(), version)
            except (FileNotFoundError, VersionConflictError):  # released, or taken by another one, meanwhile
                continue

    def _is_abandoned(self, version: dict[str, str]) -> bool:
        """Wait for the end of a lease; whether it was not renewed until then."""
        left = LEASE_SECONDS - self._age_seconds()
        if left <= 0:
            return True
        print(
            f"{self._folder.location} was locked {LEASE_SECONDS - left:.0f} s ago by another command; waiting up to "
            f"{left:.0f} s to see whether it was killed",
            flush=True,
        )
        deadline = time.monotonic() + left
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            if self._read()[1] != version:
                return False
        return True

    def _require_exclusive_creation(self) -> None:
        """Some servers with the protocol of S3 create what exists: there, two processes would hold the lock."""
        with suppress(FileExistsError):
            self._folder.create(self._name, b"?")
            self._folder.delete([self._name])
            raise UserError(
                f"{self._folder.location}: the server overwrites files in spite of `If-None-Match: *`; use storage "
                "with conditional writes, such as S3, Google Cloud Storage or MinIO"
            )

    def _age_seconds(self) -> float:
        """Since the lock was written, by the storage's clock."""
        probe = f"{self._name}.{self._holder}"
        self._folder.replace(probe, b"?")
        now, written = self._folder.info(probe), self._folder.info(self._name)
        self._folder.delete([probe])
        return now.modified_s - written.modified_s if now and written else LEASE_SECONDS

    def _renew_repeatedly(self) -> None:
        while not self._is_closed.wait(RENEW_SECONDS):
            try:
                self._renew()
            except VersionConflictError:
                self._on_lost(
                    f"another command has taken the lock of {self._folder.location}, because this one did not renew "
                    "it in time; this one ends"
                )
                return
            except (OSError, UserError):  # nobody else can reach the storage, or takes the lock: the next try shows it
                continue

    def _renew(self) -> None:
        try:
            self._version = self._folder.replace_version(self._name, self._content(), self._version)
        except VersionConflictError:
            try:
                held, self._version = self._read()
            except FileNotFoundError:
                held = {}
            if held.get("holder") != self._holder:  # otherwise the answer to an earlier renewal was lost
                raise

    def _content(self) -> bytes:
        self._num_renewals += 1
        lease = {"owner": self._owner, "holder": self._holder, "renewals": self._num_renewals}
        return json.dumps(lease).encode()

    def _read(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The lock, empty if it is damaged, and its version."""
        content, version = self._folder.read_version(self._name)
        return _parse(content), version


def is_held(folder: BucketFolder, name: str) -> bool:
    """Whether there is a lock that its holder has not released; it may have been killed."""
    return folder.info(name) is not None


def _parse(content: bytes) -> dict[str, Any]:
    try:
        lease = json.loads(content)
    except ValueError:
        return {}
    return lease if isinstance(lease, dict) else {}
