"""The local cache of remote files: bounded, shared by processes, checked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from object_stores import s3_server

from datasets.runtime.errors import UserError
from datasets.runtime.storage import file_cache
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.file_cache import FileCache, RemoteFile
from datasets.runtime.storage.folder import Folder, open_folder

FILE_BYTES = 1000


class CountingFolder:
    """A folder that counts what is read from it."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.location, self.read = folder, folder.location, []

    def stream(self, path: str) -> Iterator[bytes]:
        self.read.append(path)
        return self.folder.stream(path)


@pytest.fixture
def remote(tmp_path) -> CountingFolder:
    return CountingFolder(open_folder(tmp_path / "remote"))


def stored(remote: CountingFolder, name: str) -> RemoteFile:
    content = hashlib.shake_128(name.encode()).digest(FILE_BYTES)
    remote.folder.replace(name, content)
    return RemoteFile(remote, name, FILE_BYTES, hashlib.blake2b(content, digest_size=16).hexdigest())


def read(cache: FileCache, file: RemoteFile) -> bytes:
    with os.fdopen(cache.open(file), "rb") as opened:
        return opened.read()


def copies(cache: FileCache) -> set[str]:
    return {path.name for path in cache.root.iterdir() if path.suffix != ".lock"}


def test_a_file_is_downloaded_once_for_all_processes(remote, tmp_path):
    file = stored(remote, "a")
    for _ in range(2):
        cache = FileCache(tmp_path / "cache", 10_000)
        assert read(cache, file) == read(cache, file) == remote.folder.read("a")
    with ThreadPoolExecutor(8) as pool:
        assert (
            len(set(pool.map(lambda _: read(FileCache(tmp_path / "cache", 10_000), stored(remote, "b")), range(8))))
            == 1
        )
    assert remote.read == ["a", "b"]


def test_the_least_recently_used_copy_makes_room_and_open_copies_stay_readable(remote, tmp_path):
    cache = FileCache(tmp_path / "cache", 3 * FILE_BYTES)
    files = [stored(remote, name) for name in "abcd"]
    for file in files[:3]:
        read(cache, file)
    in_use = cache.open(files[1])
    for age, file in enumerate((files[1], files[2], files[0])):
        os.utime(cache.root / file.checksum, (age, age))
    read(cache, files[3])
    assert copies(cache) == {files[0].checksum, files[2].checksum, files[3].checksum}
    with os.fdopen(in_use, "rb") as opened:
        assert opened.read() == remote.folder.read("b")


def test_a_file_larger_than_the_cache_is_one_line(remote, tmp_path):
    with pytest.raises(
        UserError, match=r"a has 1,000 bytes, more than the cache in .* may hold \(999\); make it larger"
    ):
        FileCache(tmp_path / "cache", 999).open(stored(remote, "a"))


@pytest.mark.parametrize("damage", ["cut off", "another byte"])
def test_a_damaged_copy_is_downloaded_again(remote, tmp_path, damage):
    file = stored(remote, "a")
    read(FileCache(tmp_path / "cache", 10_000), file)
    copy = tmp_path / "cache" / file.checksum
    copy.write_bytes(copy.read_bytes()[:500] if damage == "cut off" else b"?" + copy.read_bytes()[1:])
    assert read(FileCache(tmp_path / "cache", 10_000), file) == remote.folder.read("a")
    assert remote.read == ["a", "a"]


def test_a_damaged_remote_file_is_named_and_leaves_no_copy(remote, tmp_path):
    file = stored(remote, "a")
    remote.folder.replace("a", b"?" * FILE_BYTES)
    cache = FileCache(tmp_path / "cache", 10_000)
    with pytest.raises(UserError, match="remote/a is damaged: its checksum is not that of the corpus"):
        cache.open(file)
    assert not copies(cache)
    remote.folder.delete(["a"])
    with pytest.raises(UserError, match="remote/a is missing"):
        cache.open(file)


def test_a_process_killed_while_it_downloads_leaves_nothing_that_counts(remote, tmp_path):
    file, other = stored(remote, "a"), stored(remote, "b")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from datasets.runtime.storage.file_cache import FileCache, RemoteFile\n"
        "class Killing:\n"
        "    location = 'killing'\n"
        "    def stream(self, path):\n"
        "        yield b'half'\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"FileCache(Path(sys.argv[1]), 10_000).open(RemoteFile(Killing(), 'a', 1000, {file.checksum!r}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "cache")], check=False)
    assert killed.returncode == -9
    cache = FileCache(tmp_path / "cache", FILE_BYTES)  # the half file takes all the room
    assert copies(cache) == {f"{file.checksum}.part"}
    assert read(cache, other) == remote.folder.read("b")
    assert copies(cache) == {other.checksum}
    assert read(cache, file) == remote.folder.read("a")


def test_files_are_read_ahead_in_order_and_within_a_part_of_the_cache(remote, tmp_path):
    files = [stored(remote, name) for name in "abcdef"]
    cache = FileCache(tmp_path / "cache", 2 * FILE_BYTES * file_cache.READAHEAD_DIVISOR)
    cache.read_ahead(files)
    for number, file in enumerate(files):
        cache.stop_reading_ahead() if number == 4 else None  # waits for the downloads that run
        if number == 0:
            deadline = time.monotonic() + 10
            while len(remote.read) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sorted(remote.read) == ["a", "b"]
        assert read(cache, file) == remote.folder.read(file.path)
    assert sorted(remote.read) == ["a", "b", "c", "d", "e", "f"]


def test_an_outage_is_waited_for_and_announced(tmp_path, capsys):
    with s3_server() as server:
        folder = BucketFolder(server.uri("remote"), retry_s=0.2)
        content = b"x" * FILE_BYTES
        folder.replace("a", content)
        file = RemoteFile(folder, "a", FILE_BYTES, hashlib.blake2b(content, digest_size=16).hexdigest())
        server.stop()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(read, FileCache(tmp_path / "cache", 10_000), file)
            printed = ""
            while "trying again for 10 min" not in printed:
                printed += capsys.readouterr().err
                time.sleep(0.01)
            server.start()
            assert waiting.result() == content
        assert "s3://bucket/remote/a" in printed and "hidden" not in printed
