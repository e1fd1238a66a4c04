"""A corpus in object storage: copied there, opened, read through the cache, trained and evaluated on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from object_stores import S3Server, google_server, s3_server

from datasets.cli import corpus as corpus_verb
from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES, dump_json
from datasets.corpus.transfer import copy as copying
from datasets.corpus.transfer.copy import copy_corpus
from datasets.loading.frames import index_games, read_games
from datasets.pipeline.encode import encode, encode_in_process
from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from datasets.runtime.storage.file_cache import FileCache
from datasets.runtime.storage.folder import open_folder
from datasets.runtime.storage.local_folder import LocalFolder
from datasets.schema.splits import SplitConfig


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def in_bucket(server, sharded_corpus) -> str:
    """URI of a copy of the corpus."""
    uri = server.uri("corpora/tiny")
    copy_corpus(sharded_corpus, uri)
    return uri


@pytest.fixture(scope="module")
def grown_corpus(synthetic_replays, tmp_path_factory) -> Path:
    """A corpus of several shards, one of each of three encodes."""
    out = tmp_path_factory.mktemp("grown") / "corpus"
    paths = sorted(synthetic_replays.glob("*.slp"))[:9]
    for number in range(3):
        encode(paths[number::3], out, EncodeOptions(), encode_in_process)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    found = open_folder(folder)
    return {info.path: found.read(info.path) for info in found.list() if info.path != "encode.log"}


@pytest.mark.parametrize("store", ["s3", "gs"])
def test_a_corpus_goes_to_a_bucket_and_back_without_a_change(store, server, sharded_corpus, tmp_path):
    if store == "s3":
        uri = server.uri("corpora/there and back")
        copy_corpus(sharded_corpus, uri)
        copy_corpus(uri, tmp_path / "back")
    else:
        with google_server() as address:
            uri = f"gs://anonymous@bucket/corpus?endpoint_override={address}&scheme=http"
            copy_corpus(sharded_corpus, uri)
            copy_corpus(uri, tmp_path / "back")
    locks = {"encode.lock"}
    there, back = files_of(sharded_corpus), files_of(tmp_path / "back")
    assert {name: there[name] for name in there.keys() - locks} == {name: back[name] for name in back.keys() - locks}
    assert verify(tmp_path / "back").is_sound


def test_games_and_frames_are_those_on_the_disk_with_a_cache_smaller_than_the_corpus(server, grown_corpus, tmp_path):
    copy_corpus(grown_corpus, in_bucket := server.uri("corpora/grown"))
    on_disk = index_games(open_corpus(grown_corpus), "all", SplitConfig())
    largest = max(record.num_bytes for record in on_disk.corpus.state.files[FRAMES])
    cache = FileCache(tmp_path / "cache", largest + 1)
    remote = index_games(open_corpus(in_bucket, cache), "all", SplitConfig())
    assert remote.corpus.num_bytes(FRAMES) > cache.max_bytes
    assert remote.corpus.games.equals(on_disk.corpus.games) and remote.corpus.rejects.equals(on_disk.corpus.rejects)
    games = np.random.default_rng(0).permutation(len(on_disk))
    remote.corpus.read_ahead(dict.fromkeys(remote.shards[games].tolist()))
    expected, found = read_games(on_disk, games), read_games(remote, games)
    remote.corpus.stop_reading_ahead()
    np.testing.assert_array_equal(found.floats, expected.floats)
    np.testing.assert_array_equal(found.codes, expected.codes)
    assert sum(path.stat().st_size for path in cache.root.iterdir()) <= cache.max_bytes


def test_a_copy_that_was_damaged_in_the_cache_while_in_use_is_read_again(in_bucket, tmp_path):
    cache = FileCache(tmp_path / "cache", 100_000_000)
    index = index_games(open_corpus(in_bucket, cache), "all", SplitConfig())
    expected = read_games(index, [0])
    for path in cache.root.glob("*"):
        if path.suffix != ".lock":
            path.write_bytes(b"\0" * path.stat().st_size)  # the same file: its checksum was verified before
    np.testing.assert_array_equal(read_games(index, [0]).floats, expected.floats)


def test_a_corpus_and_its_copy_are_the_same_data_to_a_run(in_bucket, sharded_corpus):
    assert open_corpus(in_bucket).digest == open_corpus(sharded_corpus).digest


def test_info_describes_a_corpus_by_its_uri(in_bucket, sharded_corpus, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpus_verb(["info", str(sharded_corpus)]) == 0
    expected = capsys.readouterr().out
    assert corpus_verb(["info", in_bucket]) == 0
    assert capsys.readouterr().out == expected


def test_a_copy_that_was_interrupted_is_no_corpus_and_goes_on_where_it_ended(server, sharded_corpus, monkeypatch):
    uri = server.uri("corpora/interrupted")
    upload, lock, num_uploaded = copying._Copy._copy, threading.Lock(), 0

    def failing(self, path, staging):
        nonlocal num_uploaded
        with lock:
            num_uploaded += 1
            if num_uploaded > 1:
                raise OSError("connection reset")
        return upload(self, path, staging)

    with monkeypatch.context() as patch:
        patch.setattr(copying._Copy, "_copy", failing)
        with pytest.raises(UserError, match=r"the copy is not complete .*; run the same command again to go on"):
            copy_corpus(sharded_corpus, uri)
    with pytest.raises(UserError, match=r"holds no corpus\.json"):
        open_corpus(uri)
    report = copy_corpus(sharded_corpus, uri)
    assert report.num_copied == report.num_files - 1
    assert copy_corpus(sharded_corpus, uri).num_copied == 0
    assert open_corpus(uri).state.num_games == report.num_games


def test_a_damaged_file_is_not_copied(sharded_corpus, tmp_path):
    shutil.copytree(sharded_corpus, tmp_path / "damaged")
    shard = next((tmp_path / "damaged" / FRAMES).iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=f"{shard.name} is damaged; drop it with `wm corpus repair"):
        copy_corpus(tmp_path / "damaged", tmp_path / "copy")
    assert not (tmp_path / "copy" / "corpus.json").exists()


def test_nothing_else_is_overwritten(server, in_bucket, sharded_corpus, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files; choose a new or empty target"):
        copy_corpus(sharded_corpus, tmp_path / "notes")
    other = LocalFolder(tmp_path / "other")
    shutil.copytree(sharded_corpus, other.root)
    for info in list(other.list(FRAMES)):
        other.replace(info.path, b"other")
    content = json.loads(other.read("corpus.json"))
    del content["checksum"]
    content["files"][FRAMES][0][0] = "other.parquet"
    other.replace("corpus.json", dump_json(content))
    with pytest.raises(UserError, match="holds another corpus than"):
        copy_corpus(in_bucket, other.root)
    with pytest.raises(UserError, match="cannot be copied onto itself"):
        copy_corpus(in_bucket, in_bucket)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    with (
        open_folder(server.uri("corpora/locked")).lock("encode.lock", "other", "held"),
        pytest.raises(UserError, match="another command writes into s3://bucket/corpora/locked"),
    ):
        copy_corpus(sharded_corpus, server.uri("corpora/locked"))


def test_an_incomplete_corpus_is_refused_when_it_is_opened(server, in_bucket, sharded_corpus):
    uri = server.uri("corpora/incomplete")
    copy_corpus(sharded_corpus, uri)
    folder = open_folder(uri)
    shard = next(folder.list(FRAMES)).path
    folder.delete([shard])
    with pytest.raises(UserError, match=f"incomplete \\({shard} is missing\\); copy the corpus again"):
        open_corpus(uri)
