"""Checkpoints in object storage, on a server with the S3 protocol: as on a disk, also during an outage."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from object_stores import S3Server, s3_server
from snapshots import CONFIG, failing, snapshot

from datasets.runtime.errors import UserError
from wm.checkpoints.reader import load_resume, open_checkpoint, open_store
from wm.checkpoints.remote_store import RemoteStore
from wm.checkpoints.writer import CheckpointWriter
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.model.world_model import build_model


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def test_a_bucket_holds_the_same_checkpoints_as_a_disk(store, tmp_path):
    uri = store.uri("run a/checkpoints")
    judged = {1: 0.1, 2: 0.2, 3: 0.8, 4: 0.3, 5: 0.4, 6: 0.5}
    for location in (uri, tmp_path / "checkpoints"):
        with CheckpointWriter(open_store(location), 1, failing) as writer:
            for targets_seen, change_acc in judged.items():
                writer.save(snapshot(targets_seen, change_acc=change_acc), wait=True)
    here = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file())
    assert here == [key.removeprefix("run a/") for key in store.keys("run a/")]
    for location in (uri, store.uri("run a"), store.uri("run a/checkpoints/targets-000000000006")):
        opened = open_checkpoint(location)
        assert opened.meta == open_checkpoint(tmp_path).meta
        assert opened.location == "s3://bucket/run a/checkpoints/targets-000000000006"
        assert load_resume(opened.path)["optimizer"][0]["step"] == 6
    assert [name.targets_seen for name in open_store(uri).names()] == [3, 6]  # the best, the newest
    best = open_checkpoint(store.uri("run a/checkpoints/targets-000000000003"))
    assert best.meta["targets_seen"] == 3
    assert open_store(uri).newest_meta() == open_store(tmp_path / "checkpoints").newest_meta()


def test_a_network_in_a_bucket_is_evaluated_like_the_one_that_was_saved(store, tiny_corpus, tmp_path):
    model = build_model(CONFIG.model, 10)
    taken = snapshot(100)
    taken.model_state.clear()
    taken.model_state.update(model.state_dict())
    for location in (store.uri("network"), tmp_path / "network"):
        with CheckpointWriter(open_store(location), 1, failing) as writer:
            writer.save(taken)
    options = {"split": "all", "num_targets": 50, "num_dreams": 0}
    remote, local = (
        evaluate_checkpoint(location, tiny_corpus, ("5",), **options, out=tmp_path / f"{number}.json")
        for number, location in enumerate((store.uri("network"), tmp_path / "network"))
    )
    assert remote["checkpoint"] == "s3://bucket/network/targets-000000000100"
    assert remote["results"] == local["results"]
    assert remote["results"][0]["predictor"] == "model"


def damage(store: S3Server, key: str, change: Callable[[bytes], bytes] | None) -> None:
    """Change an object, or delete it."""
    if change is None:
        store.client.delete_object(Bucket="bucket", Key=key)
    else:
        store.write(key, change(store.read(key)))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "resume.pt", "meta.json"])
def test_damaged_or_incomplete_checkpoints_in_a_bucket_are_skipped_for_the_one_before(store, file):
    for number, change in enumerate((None, lambda content: content[:-1], lambda content: content[:-1] + b"!")):
        below = f"damaged-{file}-{number}"
        with CheckpointWriter(open_store(store.uri(below)), 2, failing) as writer:
            for targets_seen in (100, 200):
                writer.save(snapshot(targets_seen), wait=True)
        damage(store, f"{below}/targets-000000000200/{file}", change)
        found, damaged = open_store(store.uri(below)).newest_intact()
        assert found is not None
        assert found.meta["targets_seen"] == 100
        assert len(damaged) == (0 if file == "meta.json" and change is None else 1)
        assert "hidden" not in "".join(damaged)


def test_objects_of_a_killed_upload_are_deleted_by_the_next_writer(store):
    store.write("killed/targets-000000000007/model.safetensors", b"half")
    assert open_store(store.uri("killed")).newest_intact() == (None, [])
    with CheckpointWriter(open_store(store.uri("killed")), 1, failing):
        assert not store.keys("killed/")


def test_an_outage_of_the_store_does_not_end_a_run(store, monkeypatch):
    monkeypatch.setattr(RemoteStore, "retry_s", 0.0)
    reported: list[str] = []
    with CheckpointWriter(open_store(store.uri("away")), 1, reported.append) as writer:
        writer.save(snapshot(100), wait=True)
        store.stop()
        try:
            writer.save(snapshot(200))
            writer.wait()
            with pytest.raises(UserError, match=r"at 400 targets could not be written to s3://bucket/away") as refused:
                writer.save(snapshot(400), wait=True)
            with pytest.raises(UserError, match=r"s3://bucket/away cannot be read"):
                open_store(store.uri("away")).newest_intact()
        finally:
            store.start()
        assert writer.num_failed == 2
        assert len(reported) == 1
        assert "hidden" not in reported[0] + str(refused.value)
        writer.save(snapshot(500), wait=True)
    found, damaged = open_store(store.uri("away")).newest_intact()
    assert found is not None
    assert (found.meta["targets_seen"], damaged) == (500, [])


def test_a_missing_bucket_is_an_error_before_the_run_starts(store):
    uri = store.uri("run").replace("@bucket/", "@no-such-bucket/")
    with pytest.raises(UserError, match="checkpoints cannot be written to s3://no-such-bucket/run") as refused:
        CheckpointWriter(open_store(uri), 1, failing)
    assert "hidden" not in str(refused.value)


def test_an_empty_store_has_no_newest_checkpoint_and_cannot_be_opened(tmp_path, store):
    for location in (tmp_path, store.uri("nothing")):
        assert open_store(location).newest_intact() == (None, [])
        with pytest.raises(UserError, match="is not a checkpoint"):
            open_checkpoint(location)
