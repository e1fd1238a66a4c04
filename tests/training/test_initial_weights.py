"""`init_from`: a new run begins with the weights of another one, and needs that one no more."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_runs import STEP, assert_same_weights, checkpoints, run, tiny_run, weights, with_targets

import wm.checkpoints.initial
import wm.training.trainer
from datasets.runtime.errors import UserError
from wm.checkpoints.reader import load_resume, open_checkpoint, open_run
from wm.checkpoints.writer import CheckpointWriter
from wm.config.run_config import RunConfig
from wm.launch.ray_train import train_on_ray
from wm.runs.run import Run
from wm.runs.run_log import read_log


@pytest.fixture(scope="module")
def source(tiny_corpus, tmp_path_factory) -> RunConfig:
    """A run of forty updates, evaluated after each fourth."""
    config = with_targets(tiny_run(tiny_corpus, tmp_path_factory.mktemp("source") / "run"), 40)
    with pytest.MonkeyPatch.context() as patch:
        save = CheckpointWriter.save
        patch.setattr(CheckpointWriter, "save", lambda self, snapshot, *, wait=False: save(self, snapshot, wait=True))
        run(config)
    return config


@pytest.fixture
def config(source: RunConfig, tmp_path: Path) -> RunConfig:
    """Another run, with the weights of the first."""
    config = replace(with_targets(source, 4), out=tmp_path / "run", init_from=str(source.out))
    return replace(config, optimizer=replace(config.optimizer, learning_rate=1e-3))


@pytest.fixture
def without_updates(monkeypatch) -> None:
    """Runs end before their first update."""
    monkeypatch.setattr(wm.training.trainer.Trainer, "is_over", True)


@pytest.mark.usefixtures("without_updates")
def test_a_run_begins_with_the_weights_of_the_newest_checkpoint_and_nothing_else_of_it(source, config):
    run(config)
    first, newest = checkpoints(config)[0], checkpoints(source)[-1]
    assert_same_weights(weights(first), weights(newest))
    meta = open_checkpoint(first).meta
    assert (meta["targets_seen"], meta["step"]) == (0, 0)
    assert meta["cursor"] == {"epoch": 0, "pool": 0, "batch": 0}
    assert all(not part["state"] for part in load_resume(first)["optimizer"]["parts"])
    assert meta["initial_weights"] == {"checkpoint": str(newest), "targets_seen": 40 * STEP}
    assert read_log(config.out)[0]["initial_weights"] == meta["initial_weights"]
    found = Run(config).initial_weights()
    assert found is not None and asdict(found) == meta["initial_weights"]


@pytest.mark.usefixtures("without_updates")
def test_the_best_checkpoint_or_any_other_can_be_named(source, config, tmp_path):
    metas = {path: open_checkpoint(path).meta for path in checkpoints(source)}
    evaluated = {
        p: m for p, m in metas.items() if m["metrics"] and m["metrics"][0]["targets_seen"] == m["targets_seen"]
    }
    best = max(evaluated, key=lambda path: (evaluated[path]["metrics"][0]["change_acc"], path))
    for number, (init_from, expected) in enumerate(
        {f"{source.out}/best": best, str(checkpoints(source)[3]): checkpoints(source)[3]}.items()
    ):
        other = replace(config, init_from=init_from, out=tmp_path / str(number))
        run(other)
        assert_same_weights(weights(checkpoints(other)[0]), weights(expected))


def test_a_run_that_begins_with_weights_has_a_lower_loss_than_one_that_begins_without(config):
    rows = {}
    for init_from in (None, config.init_from):
        other = replace(config, init_from=init_from, out=config.out.with_name(f"{init_from is None}"))
        rows[init_from] = run(other).rows[0]
    assert rows[config.init_from]["val_loss"] < 0.9 * rows[None]["val_loss"]


def test_fine_tuning_improves_on_the_weights_that_it_began_with(source, config):
    before = open_checkpoint(source.out).meta["metrics"][0]
    after = run(with_targets(config, 60)).rows[0]
    assert after["num_targets"] == before["num_targets"]
    assert after["val_loss"] < before["val_loss"]


def test_a_run_that_has_saved_once_needs_the_other_run_no_more(source, config, tmp_path):
    moved = tmp_path / "source"
    shutil.copytree(source.out, moved)
    config = replace(config, init_from=str(moved), checkpoint=replace(config.checkpoint, every_s=600.0))
    update = wm.training.trainer.Trainer.update

    def update_until_killed(self, batch):
        if self.num_updates == 2:
            raise KeyboardInterrupt
        update(self, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(wm.training.trainer.Trainer, "update", update_until_killed)
        run(config)
    shutil.rmtree(moved)
    (saved,) = checkpoints(config)
    assert run(config, resume=saved).targets_seen == 4 * STEP
    assert open_checkpoint(config.out).meta["initial_weights"]["targets_seen"] == 40 * STEP


def test_the_weights_are_those_of_the_first_command_if_the_other_run_has_continued(source, config, tmp_path):
    growing = tmp_path / "source"
    shutil.copytree(source.out, growing)
    newest = checkpoints(replace(source, out=growing))[-1]
    shutil.move(newest, tmp_path / newest.name)
    config = replace(config, init_from=str(growing))
    Run(config).claim()
    shutil.move(tmp_path / newest.name, newest)
    found = Run(config).initial_weights()
    assert found is not None and Path(found.checkpoint) == checkpoints(replace(source, out=growing))[-2]


def test_a_damaged_checkpoint_is_skipped(source, config, tmp_path):
    damaged = replace(source, out=tmp_path / "source")
    shutil.copytree(source.out, damaged.out)
    newest, before = checkpoints(damaged)[-1], checkpoints(damaged)[-2]
    (newest / "model.safetensors").write_bytes(b"damaged")
    config = replace(config, init_from=str(damaged.out))
    Run(config).claim()
    found = Run(config).initial_weights()
    assert found is not None and Path(found.checkpoint) == before
    with pytest.raises(UserError, match=r"init_from: checkpoint .* is damaged"):
        Run(replace(config, init_from=str(newest), out=tmp_path / "other")).claim()


def test_missing_weights_are_a_user_error_before_anything_is_created(config, tmp_path):
    config = replace(config, init_from=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing is not a checkpoint") as found:
        train_on_ray(config)
    assert "\n" not in str(found.value)
    assert not config.out.exists()


def test_weights_of_another_shape_are_a_user_error_that_names_the_difference(config):
    config = replace(config, model=replace(config.model, d_model=64))
    with pytest.raises(UserError, match=r"another shape \(model.d_model is 32 there, 64 here\)") as found:
        train_on_ray(config)
    assert "\n" not in str(found.value)
    assert not config.out.exists()


def test_the_key_of_a_uri_is_used_but_not_stored(source, config, monkeypatch):
    opened, newest = [], str(checkpoints(source)[-1])

    def open_and_keep(location):
        opened.append(location)
        return location, *open_run(newest)[1:]

    monkeypatch.setattr(wm.checkpoints.initial, "open_run", open_and_keep)
    uri = "s3://KEY:SECRET@bucket/run/checkpoints/targets-000000000640?region=x"
    config = replace(config, init_from=uri)
    Run(config).claim()
    found = Run(config).initial_weights()
    assert found is not None and found.checkpoint == uri.replace("KEY:SECRET@", "")
    assert "SECRET" not in (config.out / "run.json").read_text()
    opened.clear()
    run(config)
    assert opened == [uri]
    assert "SECRET" not in json.dumps(open_checkpoint(config.out).meta)
    assert "SECRET" not in (config.out / "log.jsonl").read_text()


def test_another_init_from_is_another_run(config):
    Run(config).claim()
    with pytest.raises(UserError, match=r"init_from is .* there, None here"):
        Run(replace(config, init_from=None)).claim()
