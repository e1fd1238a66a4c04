"""A lock in object storage: one holder, and no lock-out after a kill."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from object_stores import S3Server, s3_server
from waiting import wait_until

from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.lease import Lease

HELD = "another process writes"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def store(server, request, monkeypatch) -> BucketFolder:
    """An empty folder in a bucket; leases that no test outlives, renewed often."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3_600.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    return BucketFolder(server.uri(request.node.name), retry_s=1)


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """How long each wait for the end of a lease was, by a clock that goes on during these waits alone."""
    waited: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(lease, "POLL_SECONDS", 300.0)
    return waited


def killed(store: BucketFolder, owner: str = "killed") -> None:
    """A lock whose holder is killed after some renewals."""
    held = Lease(store, "lock", owner, HELD)
    held._is_closed.set()
    held._thread.join()


def test_a_lock_that_is_renewed_is_refused_at_once(store):
    with Lease(store, "lock", "first", HELD), pytest.raises(UserError, match=HELD):
        Lease(store, "lock", "second", HELD)  # otherwise it would wait for an hour, and get the lock
    Lease(store, "lock", "second", HELD).close()
    assert not list(store.list(hidden=True))


def test_the_lock_of_a_killed_command_is_free_after_the_lease_and_the_wait_is_announced(
    store, waited, capsys, monkeypatch
):
    killed(store)
    with Lease(store, "lock", "second", HELD):
        assert lease.LEASE_SECONDS / 2 < sum(waited) < lease.LEASE_SECONDS + lease.POLL_SECONDS
    printed = capsys.readouterr().out
    assert "by another command; waiting up to" in printed and "hidden" not in printed
    killed(store)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    time.sleep(lease.LEASE_SECONDS)
    with Lease(store, "lock", "second", HELD):
        assert capsys.readouterr().out == ""


def test_workers_that_ray_restarts_take_over_the_lock_of_their_command(store):
    killed(store, "command")
    Lease(store, "lock", "command", HELD).close()  # otherwise it would wait for an hour


def test_of_commands_that_start_at_once_one_holds_the_lock(store):
    held: list[Lease] = []
    refused: list[str] = []

    def take(number: int) -> None:
        try:
            held.append(Lease(store, "lock", str(number), HELD))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), refused) == (1, [HELD] * 3)
    held[0].close()


def test_a_holder_ends_if_another_took_the_lock_while_it_could_not_renew(store):
    lost, is_lost = [], threading.Event()
    stalled = Lease(store, "lock", "stalled", HELD, on_lost=lambda message: (lost.append(message), is_lost.set()))
    store.replace("lock", b'{"owner": "other", "holder": "other"}')
    assert is_lost.wait(120)
    assert "another command has taken the lock of s3://bucket/" in lost[0]
    stalled.close()
    assert store.read("lock") == b'{"owner": "other", "holder": "other"}'


def test_an_outage_of_the_storage_ends_no_holder(store, server, monkeypatch):
    renew, has_failed = Lease._renew, threading.Event()

    def renew_or_tell(self: Lease) -> None:
        try:
            renew(self)
        except OSError:
            has_failed.set()
            raise

    monkeypatch.setattr(Lease, "_renew", renew_or_tell)
    with Lease(store, "lock", "first", HELD):
        server.stop()
        assert has_failed.wait(120)
        server.start()
        before = store.read("lock")
        wait_until(lambda: store.read("lock") != before, "a renewal")
        assert json.loads(store.read("lock"))["owner"] == "first"


def test_a_damaged_lock_is_taken_over_when_it_is_not_renewed(store, waited):
    store.replace("lock", b"{half")
    with Lease(store, "lock", "second", HELD):
        assert json.loads(store.read("lock"))["owner"] == "second"
    assert waited
