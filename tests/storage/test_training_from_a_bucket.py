"""Training and evaluating on a corpus in object storage."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from object_stores import S3Server, s3_server
from tiny_runs import assert_same_weights, checkpoints, run, tiny_run, weights, with_targets

from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES
from datasets.corpus.transfer.copy import copy_corpus
from datasets.runtime.storage.file_cache import FileCache, RemoteFile
from wm.config.run_config import RunConfig
from wm.data.batches import BatchLoader
from wm.data.training_data import open_data
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.runs.run import Run
from wm.runs.run_log import read_log


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def on_disk(sharded_corpus, tmp_path) -> RunConfig:
    return with_targets(tiny_run(sharded_corpus, tmp_path / "run"), 40)


@pytest.fixture
def in_bucket(server, sharded_corpus, on_disk, tmp_path) -> RunConfig:
    """The same run from a bucket, through a cache that holds less than the corpus."""
    uri = server.uri("corpus")
    copy_corpus(sharded_corpus, uri)
    largest = max(record.num_bytes for record in open_corpus(sharded_corpus).state.files[FRAMES])
    data = replace(
        on_disk.data,
        disk_cache=tmp_path / "cache",
        disk_cache_size=largest + 1,
        device_cache="never",
        pool_frames=1_000,
    )
    uri = f"{uri}&retry_limit_seconds=1"
    return replace(on_disk, train_corpus=uri, out=tmp_path / "from-bucket", data=data)


def test_a_run_goes_on_from_the_copy_of_its_corpus_in_a_bucket_with_the_same_updates(on_disk, in_bucket, tmp_path):
    on_disk = replace(on_disk, data=replace(in_bucket.data, disk_cache=None, disk_cache_size="auto"))
    run(on_disk)
    run(in_bucket, resume=checkpoints(on_disk)[len(checkpoints(on_disk)) // 2])
    assert_same_weights(weights(checkpoints(on_disk)[-1]), weights(checkpoints(in_bucket)[-1]))
    identities = []
    for config in (on_disk, in_bucket):
        Run(config).describe(open_data(config), ["wm", "train"])
        identities.append(json.loads((config.out / "data.json").read_text()))
        identities[-1]["train"].pop("corpus"), identities[-1]["judged"].pop("corpus")
    assert identities[0] == identities[1]
    stored = [path.read_bytes() for path in in_bucket.out.rglob("*") if path.is_file()]
    assert any(b"s3://bucket/corpus" in content for content in stored)
    assert not any(b"key:hidden" in content for content in stored)
    cache = FileCache(tmp_path / "cache", 10_000_000)
    options = {"split": "all", "num_targets": 50, "num_dreams": 8, "out": tmp_path / "e", "cache": cache}
    results = [
        evaluate_checkpoint(in_bucket.out, corpus, ("5",), **options)
        for corpus in (on_disk.train_corpus, in_bucket.train_corpus)
    ]
    assert results[1].pop("corpus") == "s3://bucket/corpus" and results[0].pop("corpus") == str(on_disk.train_corpus)
    assert str(results[0]) == str(results[1])


def test_training_waits_for_the_end_of_an_outage_of_the_storage(in_bucket, server, monkeypatch, capsys):
    take, download, num_taken, refused = BatchLoader.__next__, FileCache._download_once, 0, []

    def stop_after_some_batches(self):
        nonlocal num_taken
        num_taken += 1
        if num_taken == 3:
            server.stop()
        return take(self)

    def start_after_the_first_refusal(self, file: RemoteFile) -> int:
        try:
            return download(self, file)
        except OSError:
            if not threading.current_thread().name.startswith("read-ahead"):  # which leaves errors to `open`
                if not refused:
                    server.start()
                refused.append(file.path)
            raise

    monkeypatch.setattr(BatchLoader, "__next__", stop_after_some_batches)
    monkeypatch.setattr(FileCache, "_download_once", start_after_the_first_refusal)
    result = run(in_bucket)
    assert result.rows and refused and num_taken >= 40
    assert Path(in_bucket.out, "log.jsonl").exists() and read_log(in_bucket.out)
    assert "trying again for 10 min" in capsys.readouterr().err
