"""Checkpoints in object storage, on a server that speaks S3's protocol: as on a disk, also when it goes away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer
from snapshots import CONFIG, failing, snapshot

from datasets.runtime.errors import UserError
from wm.checkpoints.reader import (
    best_checkpoint,
    latest_checkpoint,
    load_resume,
    newest_meta,
    newest_sound,
    open_checkpoint,
)
from wm.checkpoints.writer import CheckpointWriter
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.model.world_model import build_model


class Store:
    """A server that speaks S3's protocol, with a bucket, that can be stopped and started again."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")
        self.client.create_bucket(Bucket="bucket")

    def start(self) -> None:
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def uri(self, path: str) -> str:
        return f"s3://key:hidden@bucket/{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def keys(self, below: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=below).get("Contents", [])
        return [item["Key"] for item in found if item["Size"]]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """An object storage, and keys in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store = Store()
        yield store
        store.server.stop()


def test_a_bucket_holds_the_same_checkpoints_as_a_disk(store, tmp_path):
    uri = store.uri("run a/checkpoints")
    judged = {1: (0.9, 0.1), 2: (0.3, 0.2), 3: (0.5, 0.8), 4: (0.6, 0.3), 5: (0.7, 0.4), 6: (0.8, 0.5)}
    for place in (uri, tmp_path / "checkpoints"):
        with CheckpointWriter(place, 1, failing) as writer:
            for targets_seen, (val_loss, change_acc) in judged.items():
                writer.save(snapshot(targets_seen, val_loss=val_loss, change_acc=change_acc), wait=True)
    here = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file())
    assert here == [key.removeprefix("run a/") for key in store.keys("run a/")]
    for location in (uri, store.uri("run a"), store.uri("run a/checkpoints/targets-000000000006")):
        opened = open_checkpoint(location)
        assert opened.meta == open_checkpoint(tmp_path).meta
        assert opened.location == "s3://bucket/run a/checkpoints/targets-000000000006"
        assert load_resume(opened.path)["optimizer"][0]["step"] == 6
    best = best_checkpoint(uri, "val_loss")
    assert best is not None
    assert open_checkpoint(best, into=tmp_path / "best").meta["targets_seen"] == 2
    assert newest_meta(uri) == newest_meta(tmp_path / "checkpoints")


def test_a_network_in_a_bucket_is_judged_as_the_one_that_was_saved(store, tiny_corpus, tmp_path):
    model = build_model(CONFIG.model, 10)
    taken = snapshot(100)
    taken.model_state.clear()
    taken.model_state.update(model.state_dict())
    for place in (store.uri("network"), tmp_path / "network"):
        with CheckpointWriter(place, 1, failing) as writer:
            writer.save(taken)
    far, near = (
        evaluate_checkpoint(place, tiny_corpus, ("5",), split="all", num_targets=50, out=tmp_path / f"{number}.json")
        for number, place in enumerate((store.uri("network"), tmp_path / "network"))
    )
    assert far["checkpoint"] == "s3://bucket/network/targets-000000000100"
    assert far["results"] == near["results"]
    assert far["results"][0]["predictor"] == "model"


def damage(store: Store, key: str, change: Callable[[bytes], bytes] | None) -> None:
    """Change an object, or delete it."""
    if change is None:
        store.client.delete_object(Bucket="bucket", Key=key)
    else:
        content = store.client.get_object(Bucket="bucket", Key=key)["Body"].read()
        store.client.put_object(Bucket="bucket", Key=key, Body=change(content))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "resume.pt", "meta.json"])
def test_in_a_bucket_too_what_is_damaged_or_half_there_is_passed_over_for_the_one_before(store, file):
    for number, change in enumerate((None, lambda content: content[:-1], lambda content: content[:-1] + b"!")):
        below = f"damaged-{file}-{number}"
        with CheckpointWriter(store.uri(below), 2, failing) as writer:
            for targets_seen in (100, 200):
                writer.save(snapshot(targets_seen), wait=True)
        damage(store, f"{below}/targets-000000000200/{file}", change)
        found, damaged = newest_sound(store.uri(below))
        assert found is not None
        assert found.meta["targets_seen"] == 100
        assert len(damaged) == (0 if file == "meta.json" and change is None else 1)
        assert "hidden" not in "".join(damaged)


def test_what_an_upload_left_that_was_killed_is_deleted_when_the_next_writer_starts(store):
    store.client.put_object(Bucket="bucket", Key="killed/targets-000000000007/model.safetensors", Body=b"half")
    assert newest_sound(store.uri("killed")) == (None, [])
    with CheckpointWriter(store.uri("killed"), 1, failing):
        assert not store.keys("killed/")


def test_a_store_that_cannot_be_reached_for_a_while_ends_no_run(store):
    told: list[str] = []
    with CheckpointWriter(store.uri("away"), 1, told.append) as writer:
        writer.save(snapshot(100), wait=True)
        store.server.stop()
        try:
            writer.save(snapshot(200))
            writer.wait()
            with pytest.raises(UserError, match=r"at 400 targets could not be written to s3://bucket/away") as refused:
                writer.save(snapshot(400), wait=True)
            with pytest.raises(UserError, match=r"s3://bucket/away cannot be read"):
                newest_sound(store.uri("away"))
        finally:
            store.start()
        assert writer.num_failed == 2
        assert len(told) == 1
        assert "hidden" not in told[0] + str(refused.value)
        writer.save(snapshot(500), wait=True)
    found, damaged = newest_sound(store.uri("away"))
    assert found is not None
    assert (found.meta["targets_seen"], damaged) == (500, [])


def test_a_bucket_that_is_not_there_is_an_error_before_the_run_starts(store):
    uri = store.uri("run").replace("@bucket/", "@no-such-bucket/")
    with pytest.raises(UserError, match="checkpoints cannot be written to s3://no-such-bucket/run") as refused:
        CheckpointWriter(uri, 1, failing)
    assert "hidden" not in str(refused.value)


def test_where_nothing_is_the_newest_is_none_and_opening_says_so(tmp_path, store):
    for place in (tmp_path, store.uri("nothing")):
        assert newest_sound(place) == (None, [])
        with pytest.raises(UserError, match="is no checkpoint"):
            open_checkpoint(place)
    assert latest_checkpoint(tmp_path) is None
