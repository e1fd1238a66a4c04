"""Folders on a disk, on a server with S3's protocol and on one with Google's: one behaviour."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_stores import S3Server, google_server, s3_server

from datasets.runtime.errors import UserError
from datasets.runtime.storage import bucket_folder, lease
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.storage.lease import Lease

HELD = "another process writes"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    with google_server() as address:
        yield address


@pytest.fixture(params=["disk", "s3", "gs"])
def folder(request, tmp_path) -> Folder:
    """An empty folder."""
    name = f"a folder/{request.node.originalname}"
    if request.param == "disk":
        return open_folder(tmp_path / name)
    if request.param == "s3":
        return open_folder(request.getfixturevalue("s3").uri(name.replace(" ", "%20")))
    address = request.getfixturevalue("google")
    uri = f"gs://anonymous@bucket/{name.replace(' ', '%20')}"
    return open_folder(f"{uri}?endpoint_override={address}&scheme=http&retry_limit_seconds=5")


def test_files_are_created_once_and_replaced_as_wholes(folder):
    folder.create("commits/1.json", b"first")
    folder.create("commits/1.json", b"first")  # as after a lost answer
    with pytest.raises(FileExistsError):
        folder.create("commits/1.json", b"second")
    assert folder.read("commits/1.json") == b"first"
    before = folder.info("commits/1.json")
    folder.replace("commits/1.json", b"third one")
    after = folder.info("commits/1.json")
    assert (before.num_bytes, after.num_bytes) == (5, 9) and before.version != after.version
    assert folder.read_range("commits/1.json", 6, 100) == b"one"
    assert not folder.exists("commits/2.json")
    with pytest.raises(FileNotFoundError):
        folder.read("commits/2.json")


def test_of_many_writers_of_one_name_one_succeeds(folder):
    def create(number: int) -> bool:
        try:
            folder.create("commit", f"content {number}".encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, has_won in enumerate(pool.map(create, range(8))) if has_won]
    assert len(won) == 1
    assert folder.read("commit") == f"content {won[0]}".encode()
    assert [info.path for info in folder.list(hidden=True)] == ["commit"]


def test_files_of_any_size_go_there_and_back(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_folder, "PART_BYTES", 5 << 20)  # S3's smallest
    content = bytes(range(256)) * (12 << 12)
    (tmp_path / "big").write_bytes(content)
    folder.upload(tmp_path / "big", "frames/a b#é.parquet")
    assert (tmp_path / "big").exists()
    folder.download("frames/a b#é.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    (tmp_path / "empty").write_bytes(b"")
    folder.upload(tmp_path / "empty", "frames/empty", move=True)
    assert not (tmp_path / "empty").exists()
    assert [(info.path, info.num_bytes) for info in folder.list("frames")] == [
        ("frames/a b#é.parquet", len(content)),
        ("frames/empty", 0),
    ]


def test_files_are_listed_by_folder_in_order_and_deleted_together(folder):
    assert list(folder.list()) == []
    names = ["b/2", "b/1", "a", "b/c/3", "bb", "b/.hidden"]
    for name in names:
        folder.replace(name, name.encode())
    assert [info.path for info in folder.list("b")] == ["b/1", "b/2", "b/c/3"]
    assert [info.path for info in folder.list("b", hidden=True)] == ["b/.hidden", "b/1", "b/2", "b/c/3"]
    folder.delete(["b/1", "missing", "a"])
    assert [info.path for info in folder.list()] == ["b/2", "b/c/3", "bb"]
    folder.delete_below("b")
    folder.delete_below("b")
    assert [info.path for info in folder.list(hidden=True)] == ["bb"]


def test_a_lock_has_one_holder(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3_600.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    with folder.lock("lock", "first", HELD):
        if isinstance(folder, BucketFolder):  # on a disk a process shares its locks
            with pytest.raises(UserError, match=HELD):
                folder.lock("lock", "second", HELD)
            assert folder.is_locked("lock")
    assert not folder.is_locked("lock")
    folder.lock("lock", "second", HELD).close()


@pytest.fixture
def bucket(s3, request) -> BucketFolder:
    """An empty folder in a bucket."""
    return BucketFolder(s3.uri(request.node.name))


def test_a_folder_can_be_sent_to_another_process(bucket):
    bucket.replace("a", b"1")
    assert pickle.loads(pickle.dumps(bucket)).read("a") == b"1"


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: folder.read("a"),
        lambda folder: folder.replace("a", b""),
        lambda folder: folder.create("a", b""),
        lambda folder: folder.list("a"),
    ],
)
def test_a_missing_bucket_is_one_line(s3, use: Callable[[Folder], object]):
    folder = open_folder(s3.uri("corpus").replace("@bucket/", "@missing/"))
    with pytest.raises(UserError, match="there is no bucket s3://missing; create it") as caught:
        use(folder)
    assert "hidden" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("ftp://host/corpus", "expected a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
        ("s3:///corpus", "names no bucket"),
        (Path("s3:/bucket/corpus"), "a URI has two slashes"),
    ],
)
def test_a_mistake_in_a_uri_is_one_line(location, message):
    with pytest.raises(UserError, match=message):
        open_folder(location)


def test_missing_credentials_are_one_line(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no AWS credentials found; set AWS_ACCESS_KEY_ID"):
        open_folder("s3://bucket/corpus").read("a")


def test_a_profile_that_does_not_exist_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(UserError, match=r"no AWS credentials: The config profile .lab. could not be found"):
        open_folder("s3://bucket/corpus").read("a")


def test_missing_google_credentials_are_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UserError, match="no Google credentials found; set GOOGLE_APPLICATION_CREDENTIALS"):
        open_folder("gs://bucket/corpus").read("a")


def test_keys_come_from_a_profile_and_the_server_from_the_environment(monkeypatch, tmp_path, s3):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "keys").write_text("[lab]\naws_access_key_id = key\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    folder = open_folder("s3://bucket/profile")
    folder.create("a", b"1")
    assert folder.read("a") == b"1"


def test_an_outage_is_an_os_error_and_requests_go_on_after_it(s3, request):
    folder = BucketFolder(s3.uri(request.node.name), retry_s=1)
    folder.replace("a", b"1")
    patient = BucketFolder(s3.uri(request.node.name), retry_s=60)
    s3.stop()
    with pytest.raises(OSError, match="s3://bucket/") as caught:
        folder.read("a")
    assert "hidden" not in str(caught.value)
    assert "GET http://127.0.0.1:" in str(caught.value) and "failed (HTTP error: error sending request)" in str(
        caught.value
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient.read, "a")
        s3.start()
        assert waiting.result() == b"1"


def test_a_server_that_ignores_conditions_of_writes_takes_no_lock(bucket, monkeypatch):
    monkeypatch.setattr(BucketFolder, "create", BucketFolder.replace)
    with pytest.raises(UserError, match="use storage with conditional writes"):
        bucket.lock("lock", "first", HELD)
    assert list(bucket.list(hidden=True)) == []


def test_a_holder_whose_answer_was_lost_keeps_the_lock(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 3600)
    is_lost = threading.Event()
    with Lease(bucket, "lock", "first", HELD, on_lost=lambda _message: is_lost.set()) as held:
        bucket.replace_version("lock", held._content(), held._version)  # as a renewal without an answer does
        held._renew()
        held._renew()
    assert not is_lost.is_set()
