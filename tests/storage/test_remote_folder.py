"""Whole files behind a URI, by pyarrow: what is tried again while the storage is away, and what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from object_stores import S3Server, s3_server

from datasets.runtime.remote_folder import RemoteFolder


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_request_is_tried_again_until_the_storage_is_back_and_that_is_said_once(server, capsys, monkeypatch):
    folder = RemoteFolder(server.uri("patient"), retry_s=60.0)
    folder.write("a", b"1")
    announce, announced = folder._announce, threading.Event()
    monkeypatch.setattr(folder, "_announce", lambda error: (announce(error), announced.set()))
    server.stop()
    threading.Thread(target=lambda: (announced.wait(60), server.start())).start()
    assert folder.read("a") == b"1"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "s3://bucket/patient cannot be reached" in said[0]
    assert "trying again for 60 s" in said[0] and "hidden" not in said[0]


def test_what_is_missing_or_refused_is_not_tried_again(server):
    folder = RemoteFolder(server.uri("patient"), retry_s=60.0)
    missing_bucket = RemoteFolder(server.uri("x").replace("@bucket", "@no-such-bucket"), retry_s=60.0)
    started = time.monotonic()
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")
    with pytest.raises(OSError, match=r"(?i:bucket)"):
        missing_bucket.write("a", b"1")
    assert time.monotonic() - started < 20
