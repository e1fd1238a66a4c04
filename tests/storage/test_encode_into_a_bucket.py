"""Encoding into a bucket: the corpus is that on a disk, after kills too; one writer at a time; verify and repair."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chunks
import pytest
from chunks import Plan, encode_plan, same_rows, stage
from object_stores import S3Server, google_server, s3_server

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.maintenance.repair import repair
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES
from datasets.pipeline.encode import encode, encode_in_process
from datasets.replays.game import Game
from datasets.runtime.errors import UserError
from datasets.runtime.storage import lease
from datasets.runtime.storage.folder import open_folder

PLAN: Plan = (("a'", "b'", "-"), ("c", "a"), ("b*", "b", "c", "d'"))
NUM_CHANGES = 30
"""Lower bound of the requests that change, or list, objects while PLAN is encoded."""


@pytest.fixture(scope="module")
def on_disk(games, tmp_path_factory) -> Path:
    """The corpus of PLAN on a disk."""
    out = tmp_path_factory.mktemp("disk") / "corpus"
    encode_plan(PLAN, games, out)
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request) -> Iterator[str]:
    """Format of the URIs of a bucket's folders."""
    if request.param == "s3":
        yield request.getfixturevalue("server").uri("FOLDER")
    else:
        with google_server() as address:
            yield f"gs://anonymous@bucket/FOLDER?endpoint_override={address}&scheme=http"


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    """Locks that killed processes have left are free after a second."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)


def kill_an_encode(uri: str, games: dict[str, Game], tmp_path: Path, moment: int) -> int:
    """Encode PLAN in a process that kills itself before its `moment`-th change; its exit code, or changes if 0."""
    path = tmp_path / "games.pickle"
    path.write_bytes(pickle.dumps(games))
    plan = "/".join(" ".join(chunk) for chunk in PLAN)
    command = [sys.executable, chunks.__file__, str(path), plan, uri, str(moment)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2_000:]
    return done.returncode or int(done.stdout.split()[-1])


def test_a_corpus_in_a_bucket_is_that_on_a_disk(bucket, games, on_disk):
    uri = bucket.replace("FOLDER", "whole")
    encode_plan(PLAN, games, uri)
    assert same_rows(uri, on_disk)
    report = verify(uri)
    assert report.is_sound and report.notes == (), report.text
    assert "hidden" not in report.text
    assert {info.path.split("/")[0] for info in open_folder(uri).list()} == {
        "commits", "corpus.json", "followers", "frames", "games", "rejects"
    }  # fmt: skip


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 2 else []) for seed in range(20)]
)
def test_a_corpus_in_a_bucket_killed_at_any_moment_equals_that_on_a_disk(bucket, seed, games, on_disk, tmp_path):
    uri = bucket.replace("FOLDER", f"killed-{seed}")
    rng = random.Random(seed)
    assert kill_an_encode(uri, games, tmp_path, rng.randint(2, NUM_CHANGES)) == -signal.SIGKILL
    encode_plan(PLAN, games, uri)
    assert same_rows(uri, on_disk)
    assert verify(uri).is_sound and verify(uri).notes == ()


def test_the_moments_of_the_kills_are_within_a_run(server, games, tmp_path):
    assert kill_an_encode(server.uri("counted"), games, tmp_path, 0) >= NUM_CHANGES


def test_a_second_encode_into_a_bucket_is_refused_with_one_line(server, games, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 30.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    uri = server.uri("two writers")
    with Committer(uri, EncodeOptions()), pytest.raises(UserError) as refused:
        Committer(uri, EncodeOptions())
    assert str(refused.value).startswith("another encode is writing s3://bucket/two writers")
    encode_plan(PLAN[:1], games, uri)


def test_a_writer_whose_commit_number_was_taken_ends_with_one_line(server, games):
    uri = server.uri("fenced")
    with Committer(uri, EncodeOptions(), commit_seconds=0.0) as committer:
        open_folder(uri).create("commits/000000.json", b"of another writer")
        with pytest.raises(UserError, match="another command has written commit 0"):
            committer.add(stage(committer, 0, ("a",), games))


def test_damage_in_a_bucket_is_found_repaired_and_compacted(server, games):
    uri = server.uri("damaged")
    for number, chunk in enumerate(PLAN):
        encode_plan([chunk], games, uri, number)
    record = open_corpus(uri).state.files[FRAMES][1]
    folder = open_folder(uri)
    folder.replace(f"{FRAMES}/{record.name}", bytes(record.num_bytes))
    assert not verify(uri).is_sound
    repaired = repair(uri)
    assert repaired.num_games_dropped == 2, repaired.text
    assert verify(uri).is_sound
    encode_plan([("h",)], games, uri, 9)
    assert "merged into" in compact(uri).text
    assert verify(uri).text.startswith(f"{folder.location} is sound")


def test_replays_are_encoded_into_a_bucket_as_onto_a_disk(server, synthetic_replays, tmp_path):
    paths = sorted(synthetic_replays.glob("*.slp"))[:5]
    uri = server.uri("replays")
    summary = encode(paths, uri, EncodeOptions(), encode_in_process)
    encode(paths, tmp_path / "disk", EncodeOptions(), encode_in_process)
    assert summary.num_games == open_corpus(uri).games.num_rows > 0
    assert same_rows(uri, tmp_path / "disk")


def test_an_encode_on_ray_uploads_from_its_workers(server, synthetic_replays, tmp_path, ray_session):
    from datasets.pipeline.ray_encode import encode_on_ray

    paths = sorted(synthetic_replays.glob("*.slp"))[:5]
    encode(paths, server.uri("ray"), EncodeOptions(), encode_on_ray)
    encode(paths, tmp_path / "disk", EncodeOptions(), encode_in_process)
    assert same_rows(server.uri("ray"), tmp_path / "disk")
