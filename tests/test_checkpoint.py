"""Checkpoints: whole or not there, opened again bit for bit, and refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import UserError
from wm import checkpoint as checkpoints
from wm.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    load_model,
    load_resume,
    open_checkpoint,
    save_checkpoint,
)
from wm.config import ObjectiveConfig, RunConfig
from wm.encoding import ENCODING_VERSION
from wm.model import ModelConfig, build_model

CONFIG = RunConfig(model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, core="torch"))


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    return build_model(CONFIG.model, 10)


def save(folder: Path, model, targets_seen: int = 640, *, keep: int = 2, config: RunConfig = CONFIG) -> Path:
    resume = {"optimiser": {"step": torch.tensor(3)}, "cursors": [{"epoch": 1, "pool": 0, "batch": 7}]}
    meta = {"targets_seen": targets_seen, "step": 5, "seconds": 1.5}
    return save_checkpoint(folder, model=model, config=config, meta=meta, resume=resume, keep=keep)


def test_what_is_saved_is_what_is_opened(tmp_path, model):
    path = save(tmp_path, model)
    opened = open_checkpoint(path)
    assert opened.config == CONFIG
    assert opened.meta["targets_seen"] == 640
    assert opened.meta["encoding_version"] == ENCODING_VERSION
    loaded = load_model(opened)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert load_resume(path)["cursors"] == [{"epoch": 1, "pool": 0, "batch": 7}]


def test_the_weights_open_with_safetensors_alone(tmp_path, model):
    tensors = load_file(save(tmp_path, model) / "model.safetensors")
    assert tensors.keys() == model.state_dict().keys()


def test_an_mlps_context_comes_back_with_it(tmp_path):
    config = RunConfig(
        model=ModelConfig(kind="mlp", hidden=(8, 4)), objective=ObjectiveConfig(kind="window", context_frames=3)
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


def test_saving_the_same_place_again_replaces_it(tmp_path, model):
    save(tmp_path, model)
    path = save(tmp_path, model)
    assert list_checkpoints(tmp_path) == [path]


@pytest.mark.parametrize("step", ["save_file", "torch.save", "rename"])
def test_a_save_that_is_cut_off_leaves_the_checkpoint_before_it_and_is_cleared_by_the_next(
    tmp_path, model, monkeypatch, step
):
    before = save(tmp_path, model, 100)

    def power_cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "save_file":
            patch.setattr(checkpoints, "save_file", power_cut)
        elif step == "torch.save":
            patch.setattr(torch, "save", power_cut)
        else:
            patch.setattr(Path, "rename", power_cut)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, model, 200)
    assert latest_checkpoint(tmp_path) == before
    assert open_checkpoint(tmp_path).meta["targets_seen"] == 100
    after = save(tmp_path, model, 200)
    assert sorted(path.name for path in tmp_path.iterdir()) == [before.name, after.name]


def test_a_run_names_its_newest_checkpoint(tmp_path, model):
    save(tmp_path / "run" / "checkpoints", model, 100)
    newest = save(tmp_path / "run" / "checkpoints", model, 200)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", newest):
        assert open_checkpoint(path).path == newest


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"is no checkpoint \(meta.json is missing\)"):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("field", ["encoding_version", "checkpoint_version"])
def test_a_checkpoint_of_another_version_is_refused_with_both_versions(tmp_path, model, field):
    path = save(tmp_path, model)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {field: 99}))
    with pytest.raises(UserError, match=r"99.*this version reads"):
        open_checkpoint(path)


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
def test_a_damaged_optimiser_is_named_when_a_run_resumes(tmp_path, model, content):
    path = save(tmp_path, model)
    resume = path / "resume.pt"
    resume.unlink() if content is None else resume.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} cannot be resumed") as caught:
        load_resume(path)
    assert "\n" not in str(caught.value)


def test_a_config_of_another_time_is_refused_by_the_name_of_its_key(tmp_path, model):
    path = save(tmp_path, model)
    plain = json.loads((path / "config.json").read_text())
    plain["model"]["dropout"] = 0.1
    (path / "config.json").write_text(json.dumps(plain))
    with pytest.raises(UserError, match=r"config.json: unknown key model.dropout"):
        open_checkpoint(path)
