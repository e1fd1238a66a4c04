"""A lock in object storage: an object that names its holder and is rewritten every few seconds while it is held.

pyarrow offers no conditional write, so the lock is taken by writing, waiting, and reading back. Two processes that take
it at the same time exclude each other if no request takes longer than SETTLE_SECONDS. If one does, both may hold the
lock until the next renewal: the holder that finds another's name then ends its process at once, as a kill would. So
does a holder that could not renew the lock for LEASE_SECONDS, and comes back after another one has taken it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Self

from datasets.runtime.errors import UserError
from datasets.runtime.remote_folder import RemoteFolder

RENEW_SECONDS = 5.0
LEASE_SECONDS = 30.0
"""A lock that was not renewed for so long is free: its holder was killed."""
SETTLE_SECONDS = 2.0
POLL_SECONDS = 1.0


def end_process(message: str) -> None:
    """End this process at once; nothing is written any more."""
    print(message, file=sys.stderr, flush=True)
    os._exit(2)


class Lease:
    """A held lock."""

    def __init__(
        self,
        store: RemoteFolder,
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
            UserError: another owner holds the lock, and renews it.
            OSError: the lock cannot be read or written.
        """
        self._store, self._name, self._owner, self._on_lost = store, name, owner, on_lost
        self._holder, self._num_renewals = uuid.uuid4().hex, 0
        self._wait_until_free(held_message)
        self._write()
        time.sleep(SETTLE_SECONDS)
        if not self._is_mine():
            raise UserError(held_message)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._renew_repeatedly, name="lock-renewal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Release the lock; if the storage is away, it is free when the lease ends."""
        self._is_closed.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._store.delete(self._name)
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    def _wait_until_free(self, held_message: str) -> None:
        held = self._read()
        if held is None or held.get("owner") == self._owner:
            return
        left = LEASE_SECONDS - self._age_seconds()
        if left <= 0:
            return
        print(
            f"{self._store.location} was locked {LEASE_SECONDS - left:.0f} s ago by another command; waiting up to "
            f"{left:.0f} s to see whether it was killed",
            flush=True,
        )
        deadline = time.monotonic() + left
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self._read()
            if now is None:
                return
            if now != held:
                raise UserError(held_message)

    def _age_seconds(self) -> float:
        """Since the lock was written, by the storage's clock."""
        probe = f"{self._name}.{self._holder}"
        self._store.write(probe, b"?")
        now, written = self._store.version(probe), self._store.version(self._name)
        self._store.delete(probe)
        return 1e-9 * (now.mtime_ns - written.mtime_ns) if now and written else LEASE_SECONDS

    def _renew_repeatedly(self) -> None:
        while not self._is_closed.wait(RENEW_SECONDS):
            try:
                held = self._read()
                if held is not None and held.get("holder") != self._holder:
                    self._on_lost(
                        f"another command has taken the lock of {self._store.location}, because this one did not renew "
                        "it in time; this one ends"
                    )
                    return
                self._write()
            except OSError:  # nobody else can reach the storage, or takes the lock: the next renewal shows it
                continue

    def _is_mine(self) -> bool:
        held = self._read()
        return held is not None and held.get("holder") == self._holder

    def _write(self) -> None:
        self._num_renewals += 1
        lease = {"owner": self._owner, "holder": self._holder, "renewals": self._num_renewals}
        self._store.write(self._name, json.dumps(lease).encode())

    def _read(self) -> dict[str, Any] | None:
        """The lock; None if nobody holds it, empty if it is damaged."""
        try:
            lease = json.loads(self._store.read(self._name))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return lease if isinstance(lease, dict) else {}
