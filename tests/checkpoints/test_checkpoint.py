"""Checkpoints: written completely or not at all, opened again bit for bit, and refused with a reason."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from snapshots import list_checkpoints, save_checkpoint

from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from wm.checkpoints.files import CheckpointName, read_meta
from wm.checkpoints.reader import load_model, load_resume, open_checkpoint, open_store
from wm.checkpoints.retention import best_of
from wm.config.model_config import ENCODINGS, ModelConfig
from wm.config.run_config import ObjectiveConfig, RunConfig
from wm.model.world_model import build_model

CONFIG = RunConfig(model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_model(CONFIG.model, 10)


def save(
    folder: Path, model, targets_seen: int = 640, *, keep: int = 2, config: RunConfig = CONFIG, **more_meta
) -> Path:
    resume = {"optimizer": {"step": torch.tensor(3)}, "cursor": {"epoch": 1, "pool": 0, "batch": 7}}
    meta = {"targets_seen": targets_seen, "step": 5, "seconds": 1.5} | more_meta
    return save_checkpoint(folder, model=model, config=config, meta=meta, resume=resume, keep=keep)


def rewrite_meta(path: Path, changed: dict) -> None:
    """Change meta.json, with a correct checksum."""
    meta = json.loads((path / "meta.json").read_text()) | changed
    del meta["blake2b"]
    (path / "meta.json").write_text(json.dumps(meta | {"blake2b": checksum(meta)}))


def checksum(meta: dict) -> str:
    """The checksum of meta.json, computed here."""
    return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()


def test_what_is_saved_is_what_is_opened(tmp_path, model):
    path = save(tmp_path, model)
    opened = open_checkpoint(path)
    assert opened.config == CONFIG
    assert opened.meta["targets_seen"] == 640
    assert opened.meta["encoding_version"] == opened.config.model.encoding
    loaded = load_model(opened)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert load_resume(path)["cursor"] == {"epoch": 1, "pool": 0, "batch": 7}


def test_the_weights_open_with_safetensors_alone(tmp_path, model):
    tensors = load_file(save(tmp_path, model) / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()


def test_an_mlps_context_comes_back_with_it(tmp_path):
    config = RunConfig(
        model=ModelConfig(kind="mlp", hidden_sizes=(8, 4)), objective=ObjectiveConfig(kind="window", context_frames=3)
    )
    path = save(tmp_path, build_model(config.model, 3), config=config)
    assert load_model(open_checkpoint(path)).context_frames == 3


def test_only_the_newest_are_kept_in_order_of_targets(tmp_path, model):
    for targets_seen in (900, 1_000, 20_000, 100_000):
        save(tmp_path, model, targets_seen, keep=3)
    assert [open_checkpoint(path).meta["targets_seen"] for path in list_checkpoints(tmp_path)] == [
        1_000,
        20_000,
        100_000,
    ]
    assert open_checkpoint(tmp_path).meta["targets_seen"] == 100_000


def test_a_newer_checkpoint_at_the_same_targets_replaces_the_older_one(tmp_path, model):
    save(tmp_path, model, seconds=1.0)
    path = save(tmp_path, model, seconds=2.0)
    assert list_checkpoints(tmp_path) == [path]
    assert open_checkpoint(tmp_path).meta["seconds"] == 2.0
    tenth = [save(tmp_path, model) for _ in range(9)][-1]
    assert list_checkpoints(tmp_path) == [tenth]


def test_a_run_opens_as_its_newest_checkpoint(tmp_path, model):
    save(tmp_path / "run" / "checkpoints", model, 100)
    newest = save(tmp_path / "run" / "checkpoints", model, 200)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", newest):
        assert open_checkpoint(path).path == newest


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_other_paths_are_refused_as_no_checkpoint(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is not a checkpoint \(meta.json is missing\)"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("field", ["encoding_version", "checkpoint_version"])
def test_a_checkpoint_of_another_version_is_refused_with_both_versions(tmp_path, model, field):
    save(tmp_path, model, 600)
    rewrite_meta(save(tmp_path, model), {field: 99})
    store = open_store(tmp_path)
    for open_newest in (lambda: open_checkpoint(tmp_path), store.newest_intact, store.newest_meta):
        with pytest.raises(UserError, match=r"99.*this version reads"):
            open_newest()


def test_a_checkpoint_without_checksums_has_another_version_and_is_not_damaged(tmp_path, model):
    path = save(tmp_path, model)
    meta = {"checkpoint_version": 1, "encoding_version": ENCODINGS[-1], "targets_seen": 640}
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="has version 1"):
        open_store(tmp_path).newest_intact()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("meta.json", b"{"),
        ("meta.json", b"[]"),
        ("meta.json", b"{}"),
        ("config.json", b"\xff\xfe"),
        ("config.json", None),
    ],
)
def test_a_damaged_checkpoint_is_named_when_it_is_opened(tmp_path, model, file, content):
    path = save(tmp_path, model)
    (path / file).unlink() if content is None else (path / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        open_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_damaged_weights_are_named_when_they_are_loaded(tmp_path, model, content):
    path = save(tmp_path, model)
    weights = path / "model.safetensors"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} does not hold this model's weights") as caught:
        load_model(open_checkpoint(path))
    assert "\n" not in str(caught.value)


def test_weights_cut_off_in_the_middle_are_refused(tmp_path, model):
    weights = save(tmp_path, model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match="does not hold this model's weights"):
        load_model(open_checkpoint(tmp_path))


def test_weights_of_another_shape_are_refused(tmp_path, model):
    other = replace(CONFIG, model=replace(CONFIG.model, d_model=64))
    path = save(tmp_path, model, config=other)
    with pytest.raises(UserError, match="does not hold this model's weights"):
        load_model(open_checkpoint(path))


@pytest.mark.parametrize("content", [b"", b"no pickle", None])
def test_a_damaged_optimizer_is_named_when_a_run_resumes(tmp_path, model, content):
    path = save(tmp_path, model)
    resume = path / "resume.pt"
    resume.unlink() if content is None else resume.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} cannot be resumed") as caught:
        load_resume(path)
    assert "\n" not in str(caught.value)


def test_a_config_with_an_unknown_key_is_refused_by_the_name_of_the_key(tmp_path, model):
    path = save(tmp_path, model)
    plain = json.loads((path / "config.json").read_text())
    plain["model"]["dropout"] = 0.1
    content = json.dumps(plain).encode()
    (path / "config.json").write_bytes(content)
    files = json.loads((path / "meta.json").read_text())["files"]
    files["config.json"] = {
        "bytes": len(content),
        "blake2b": hashlib.blake2b(content, digest_size=16).hexdigest(),
    }
    rewrite_meta(path, {"files": files})
    with pytest.raises(UserError, match=r"config.json: unknown key model.dropout"):
        open_checkpoint(path)


FILES = ("model.safetensors", "config.json", "resume.pt", "meta.json")


@pytest.fixture(scope="module")
def two(tmp_path_factory, model) -> Path:
    """Two checkpoints, at 100 and at 200 targets."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, model, 100)
    save(folder, model, 200)
    return folder


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_with_a_truncated_file_is_named_and_the_one_before_is_used(tmp_path, two, file):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    newest = list_checkpoints(tmp_path)[-1]
    whole = (newest / file).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (newest / file).write_bytes(whole[:length])
        found, damaged = open_store(tmp_path).newest_intact()
        assert found is not None
        assert found.meta["targets_seen"] == 100
        assert len(damaged) == 1
        assert f"{newest.name} is damaged ({file}: " in damaged[0]
    (newest / file).write_bytes(whole)
    found, damaged = open_store(tmp_path).newest_intact()
    assert found is not None
    assert (found.path, damaged) == (newest, [])


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_with_a_flipped_bit_is_skipped_for_the_one_before(tmp_path, two, file):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    newest = list_checkpoints(tmp_path)[-1]
    whole = (newest / file).read_bytes()
    chance = random.Random(file)
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (newest / file).write_bytes(flipped)
        found, damaged = open_store(tmp_path).newest_intact()
        assert found is not None
        assert (found.meta["targets_seen"], len(damaged)) == (100, 1)


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_with_a_missing_file_is_skipped_for_the_one_before(tmp_path, two, file):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (tmp_path / "targets-000000000200" / file).unlink()
    found, damaged = open_store(tmp_path).newest_intact()
    assert found is not None
    assert found.meta["targets_seen"] == 100
    # A folder without meta.json is not a checkpoint.
    assert len(damaged) == (file != "meta.json")


def test_if_no_checkpoint_is_intact_each_damaged_one_is_named(tmp_path, two):
    assert open_store(tmp_path / "nothing").newest_intact() == (None, [])
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    for path in list_checkpoints(tmp_path):
        (path / "resume.pt").write_bytes(b"")
    found, damaged = open_store(tmp_path).newest_intact()
    assert found is None
    assert len(damaged) == 2


def test_a_checkpoint_without_optimizer_state_can_still_be_evaluated(tmp_path, two):
    shutil.copytree(two / "targets-000000000200", tmp_path / "copy")
    (tmp_path / "copy" / "resume.pt").unlink()
    assert load_model(open_checkpoint(tmp_path / "copy")) is not None


def test_a_checkpoint_contains_no_pickled_code(two):
    for path in two.rglob("*.pt"):
        assert torch.load(path, weights_only=True)["optimizer"]["step"] == 3


def a_meta(targets_seen: int, *scores: tuple[int, int, float | None], **changes) -> dict:
    """meta.json of a checkpoint that was validated: context, frames and change_acc of each row."""
    rows = [
        {"context": k, "num_targets": frames, "targets_seen": targets_seen, "change_acc": value, "val_loss": value}
        for k, frames, value in scores
    ]
    best = {"metric": "change_acc", "context": 10}
    return {"targets_seen": targets_seen, "validation": rows, "metrics": rows, "best": best} | changes


def best_targets(*metas: dict) -> int | None:
    name = best_of({CheckpointName(meta["targets_seen"]): meta for meta in metas})
    return None if name is None else name.targets_seen


def test_the_best_checkpoint_is_that_of_the_context_and_metric_that_the_newest_names():
    metas = a_meta(100, (1, 20, 0.9), (10, 20, 0.3)), a_meta(200, (1, 20, 0.1), (10, 20, 0.4)), a_meta(300)
    assert best_targets(*metas) == 200
    for best, expected in (({"metric": "change_acc", "context": 1}, 100), ({"metric": "val_loss", "context": 1}, 200)):
        assert best_targets(*metas[:2], metas[2] | {"best": best}) == expected


def test_only_values_of_the_same_frames_are_compared_and_the_newest_of_equals_is_best():
    metas = a_meta(100, (10, 50, 0.9)), a_meta(200, (10, 20, 0.4)), a_meta(300, (10, 20, 0.4)), a_meta(400)
    assert best_targets(*metas) == 300


def test_a_checkpoint_without_a_value_is_never_the_best():
    assert best_targets(a_meta(100, (10, 20, None)), a_meta(200), a_meta(300, (1, 20, 0.5))) is None
    assert best_of({}) is None


def test_checkpoints_of_version_0_2_are_compared_by_the_rows_of_their_own_weights():
    old = [a_meta(targets, (1, 20, 0.9), (10, 20, value)) for targets, value in ((100, 0.5), (200, 0.4))]
    stale = a_meta(300) | {"metrics": [row | {"change_acc": 1.0} for row in old[0]["metrics"]]}
    finished = a_meta(400, (10, 200, 0.99)) | {"finished": True}
    old = [{k: v for k, v in meta.items() if k != "validation"} for meta in (*old, stale, finished)]
    assert best_targets(*(meta | {"best": {"val_loss": 0.1, "change_acc": 0.5}} for meta in old)) == 100


def test_the_newest_meta_is_read_without_the_weights(tmp_path, two):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (tmp_path / "targets-000000000200" / "model.safetensors").unlink()
    newest = open_store(tmp_path).newest_meta()
    assert newest is not None
    assert newest["targets_seen"] == 200
    assert open_store(tmp_path / "nothing").newest_meta() is None


def test_a_checkpoint_carries_the_tools_version_and_opens_without_it(two):
    meta = open_checkpoint(two).meta
    assert meta["tool_version"] == tool_version()
    rewritten = {name: value for name, value in meta.items() if name not in ("tool_version", "blake2b")}
    assert "tool_version" not in read_meta(json.dumps(rewritten | {"blake2b": checksum(rewritten)}).encode(), "here")
