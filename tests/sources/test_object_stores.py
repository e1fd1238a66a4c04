"""Sources behind URIs: S3 and Google Cloud Storage, from servers on this machine."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from archive_making import write_archive
from moto.server import ThreadedMotoServer
from object_stores import google_server, s3_server
from source_listing import CODE, contents, listed, rejection

from datasets.checks.filters import FilterConfig
from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.encode import encode, encode_in_process
from datasets.pipeline.progress import summary_text
from datasets.runtime.errors import UserError
from datasets.runtime.object_storage import RemoteFile
from datasets.sources import storage
from datasets.sources.read_errors import UNREACHABLE, is_refusal
from datasets.sources.reading import read_ahead, read_input
from datasets.sources.scan import Inputs, survey

ODD_NAMES = ("a b.slp", "c+d.slp", "e%20f.slp", "g#h.slp", "i?j.slp", "é.slp")
REPLAYS = {f"{number}.slp": bytes([number]) * 5_000 for number in range(9)}
Upload = Callable[[Path, str], str]
"""Puts a folder's files into a bucket, and gives its URI."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server that speaks S3's protocol, and keys in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest) -> Upload:
    """An empty bucket, and what fills it."""
    client = boto3.client("s3", endpoint_url=f"http://{server}", region_name="us-east-1")
    name = f"bucket-{abs(hash(request.node.name))}"
    client.create_bucket(Bucket=name)

    def upload(folder: Path, below: str) -> str:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{below}/{path.relative_to(folder)}"
                client.upload_file(str(path), name, key, ExtraArgs={"ACL": "public-read"})
        return f"s3://{name}/{below}?endpoint_override={server}&scheme=http"

    return upload


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Folders, files and every kind of archive."""
    root = tmp_path / "a dump"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ODD_NAMES:
        (root / "deep" / name).write_bytes(name.encode())
    (root / "deep" / "er" / "k.slp.gz").write_bytes(gzip.compress(b"packed"))
    (root / "games").mkdir()
    (root / "games" / ("ab" * 16)).write_bytes(b"columns")
    (root / "meta.json").write_text(f'[{{"slp_md5": "{"ab" * 16}", "stage": 31}}]')
    for kind in (".zip", ".7z", ".tar", ".tar.gz", ".tar.zst"):
        write_archive(root / f"replays{kind}", REPLAYS)
    return root


def facts(uri: str | Path) -> list[tuple]:
    """What an input is, wherever it lies."""
    return [
        (replay.source, replay.member, replay.name, replay.kind, replay.meta, read())
        for replay, read in read_ahead(listed(uri))
    ]


def test_a_bucket_is_read_as_the_same_folder_on_disk(dump, bucket):
    uri = bucket(dump, "a dump")
    assert facts(uri) == facts(dump)
    local, remote = survey([str(dump)]), survey([uri])
    assert remote.num_inputs == local.num_inputs - len(REPLAYS) + 1  # a tar in a bucket is counted by its size
    for archive in dump.glob("replays.*"):
        assert facts(uri.replace("?", f"/{archive.name}?")) == facts(archive)


def test_an_endpoint_may_be_named_in_the_environment_and_keys_do_not_depend_on_it(dump, bucket, server, monkeypatch):
    uri = bucket(dump, "dump")
    keys = [replay.key for replay in listed(uri)]
    with_keys = uri.replace("s3://", "s3://key:secret@")
    assert [replay.key for replay in listed(with_keys)] == keys
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    bare = uri.partition("?")[0]
    assert [replay.key for replay in listed(bare)] == keys
    assert contents(bare) == contents(uri)


def test_inputs_of_a_bucket_that_are_done_are_skipped(dump, bucket):
    uri = bucket(dump, "dump")
    replays = listed(uri)
    done = {replay.key for replay in replays[::2]}
    inputs = Inputs([uri], done.__contains__)
    assert [replay.key for replay in inputs] == [replay.key for replay in replays[1::2]]
    assert inputs.drain_skipped().num_done == len(done)


def test_an_object_deleted_after_the_listing_is_not_done_and_a_changed_one_is_rejected(dump, bucket, server):
    uri = bucket(dump / "deep" / "er", "dump")
    write_archive(dump / "deep" / "er" / "z.zip", {"a.slp": b"old"})
    uri = bucket(dump / "deep" / "er", "dump")
    plain, member = listed(uri)
    client = boto3.client("s3", endpoint_url=f"http://{server}", region_name="us-east-1")
    name = uri.split("/")[2]
    client.delete_object(Bucket=name, Key="dump/k.slp.gz")
    client.put_object(Bucket=name, Key="dump/z.zip", Body=b"something else")
    assert rejection(plain)[0] == UNREACHABLE
    assert rejection(member)[0] == "unopenable"


def test_an_impossible_source_is_an_error_before_anything_is_read(bucket, dump, server):
    uri = bucket(dump / "deep" / "er", "dump")
    options = uri.partition("?")[2]
    for place in (f"s3://no-such-bucket/x.zip?{options}", uri.replace("dump?", "nothing?")):
        with pytest.raises(UserError, match="does not exist; expected a folder"):
            survey([place])
    for scheme in ("foo", "https", "memory"):
        with pytest.raises(
            UserError, match=f"^{scheme}://: unsupported URI scheme; expected a local path, s3:// or gs://"
        ):
            survey([f"{scheme}://bucket/dump.zip"])


def test_a_source_that_is_unreachable_at_the_start_is_left_for_the_next_run(synthetic_replays, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.0,))
    content = sorted(synthetic_replays.rglob("*.slp"))[0].read_bytes()
    options = EncodeOptions(filters=FilterConfig(min_frames=1, min_damage_percent=0, allow_idle=True, num_stocks=0))
    with s3_server() as server:
        server.write("dump/game.slp", content)
        uri, out = server.uri("dump"), tmp_path / "corpus"
        server.stop()
        summary = encode([uri], out, options, encode_in_process)
        text = summary_text(summary, out)
        assert (summary.num_games, summary.num_unread) == (0, 1)
        assert "1 input could not be read; run the same command again:\ns3://bucket/dump" in text
        assert "NETWORK_CONNECTION" in text and "hidden" not in text
        server.start()
        summary = encode([uri], out, options, encode_in_process)
        assert (summary.num_games, summary.num_unread) == (1, 0)


def test_a_store_that_refuses_the_access_or_does_not_know_the_bucket_is_the_users_mistake():
    for text in (
        "When getting information for key 'k' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation: No",
        "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.",
        "google::cloud::Status(UNAUTHENTICATED: Permanent error)",
    ):
        assert is_refusal(OSError(text)), text
    for text in ("AWS Error NETWORK_CONNECTION during HeadObject operation", "AWS Error UNKNOWN (HTTP status 503)"):
        assert not is_refusal(OSError(text)), text


def test_an_option_of_a_uri_that_nobody_knows_is_an_error(server):
    with pytest.raises(UserError, match="cannot be reached"):
        survey([f"s3://key:hidden@bucket/x.zip?endpoint_override={server}&scheme=http&no_such_option=1"])


def test_a_server_that_is_down_leaves_listings_and_inputs_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", ())
    write_archive(tmp_path / "dump.zip", REPLAYS)
    with s3_server() as server:
        for path in tmp_path.iterdir():
            server.write(f"dump/{path.name}", path.read_bytes())
        server.write("dump/plain.slp", b"plain")
        every = listed(server.uri("dump"))
        server.stop()
        lost = [replay for replay in every if replay.content is None]
        assert rejection(lost[0])[0] == UNREACHABLE
        (replay,) = listed(server.uri("dump"))
        code, message = rejection(replay)
        assert (code, message.partition(":")[0]) == (UNREACHABLE, "listing incomplete")
        assert "hidden" not in replay.label + message
        server.start()
        assert [replay.key for replay in listed(server.uri("dump"))] == [replay.key for replay in every]
        assert [read_input(replay) for replay in lost][-1] == b"plain"


def test_real_archives_are_read_from_a_bucket(real_replays, bucket, tmp_path):
    for name in ("edge.zip", "slippi-db-toy.zip", "parsed-v3.tar"):
        shutil.copy(real_replays / name, tmp_path)
        local = [(replay.name, replay.meta, read()) for replay, read in read_ahead(listed(tmp_path / name))]
        uri = bucket(tmp_path, "real").replace("?", f"/{name}?")
        assert [(replay.name, replay.meta, read()) for replay, read in read_ahead(listed(uri))] == local


class Reads:
    """Sizes of the range requests, and how many were in flight at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.num_at_once = self._num_now = 0
        self._lock = threading.Lock()
        self._read_at = RemoteFile.read_at

    def read_at(self, file: RemoteFile, offset: int, size: int) -> bytes:
        """A slow range request."""
        with self._lock:
            self._num_now += 1
            self.num_at_once = max(self.num_at_once, self._num_now)
            self.sizes.append(size)
        time.sleep(0.02)
        with self._lock:
            self._num_now -= 1
        return self._read_at(file, offset, size)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Counts what is read from remote files."""
    reads = Reads()

    def read_at(file: RemoteFile, offset: int, size: int) -> bytes:
        return reads.read_at(file, offset, size)

    monkeypatch.setattr(RemoteFile, "read_at", read_at)
    return reads


def test_listing_a_remote_zip_reads_its_end_and_a_member_takes_one_request(tmp_path, bucket, reads):
    write_archive(tmp_path / "dump.zip", {f"{number}.slp": os.urandom(400_000) for number in range(20)})
    uri = bucket(tmp_path, "dump").replace("?", "/dump.zip?")
    reads.sizes.clear()
    replays = listed(uri)
    num_bytes = (tmp_path / "dump.zip").stat().st_size
    assert sum(min(size, num_bytes) for size in reads.sizes) < 0.4 * num_bytes  # the directory, by blocks of 1 MB
    reads.sizes.clear()
    assert len(read_input(replays[7])) == 400_000
    assert sum(reads.sizes) < 401_000
    assert len(reads.sizes) == 1


def test_remote_files_are_fetched_ahead_up_to_a_limit(tmp_path, bucket, reads):
    for number in range(30):
        (tmp_path / f"{number:02}.slp").write_bytes(bytes([number]))
    pairs = read_ahead(listed(bucket(tmp_path, "dump")))
    first = next(pairs)[1]
    time.sleep(0.2)
    assert len(reads.sizes) <= 8
    assert [first(), *(read() for _, read in pairs)] == [bytes([number]) for number in range(30)]
    assert 1 < reads.num_at_once <= 8


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with google_server() as address:
        yield address


def test_a_bucket_of_google_is_read_as_the_same_folder_on_disk(dump, google):
    for path in sorted(dump.rglob("*")):
        if path.is_file() and path.name not in ODD_NAMES:
            name = urllib.request.quote(f"dump/{path.relative_to(dump)}", safe="")
            place = f"http://{google}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"
            urllib.request.urlopen(urllib.request.Request(place, data=path.read_bytes(), method="POST"))
    shutil.rmtree(dump / "deep")
    uri = f"gs://anonymous@bucket/dump?endpoint_override={google}&scheme=http&retry_limit_seconds=5"
    (dump.parent / "dump").symlink_to(dump)
    expected = [fact[-1] for fact in facts(dump)]
    assert [fact[-1] for fact in facts(uri)] == [b"packed", *expected]
    with pytest.raises(UserError, match="does not exist"):
        survey([uri.replace("/dump?", "/nothing?")])


def test_the_rejection_of_a_remote_file_contains_no_name(dump, bucket):
    (dump / "deep" / "er" / f"{CODE}.slp.gz").write_bytes(b"no gzip")
    found = listed(bucket(dump / "deep" / "er", "dump"))
    assert rejection(found[0])[0] == "unopenable"
