"""Training: the loss falls, and a resumed run continues with exactly the next batch and update."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import (
    STEP,
    assert_same_weights,
    checkpoints,
    losses,
    optimizer_tensors,
    run,
    tiny_run,
    weights,
    with_targets,
)

import wm.training.open_batches
import wm.training.starting_point
import wm.training.trainer
from datasets.loading.sequences import Cursor
from datasets.runtime.errors import UserError
from wm.checkpoints.reader import load_resume, load_weights, open_checkpoint
from wm.checkpoints.writer import CheckpointWriter
from wm.config.model_config import ModelConfig
from wm.config.run_config import CheckpointConfig, ObjectiveConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.batches import BatchLoader, LocalBatch
from wm.data.training_data import check_same_games, games_digest, open_data
from wm.evaluation.game_sums import metric_values
from wm.model.scan_backend import ScanChoice
from wm.runs.console import format_row
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.divergence import DivergedError
from wm.training.validation import Row


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    """A run of ten updates of a tiny network, with a checkpoint after each."""
    return tiny_run(tiny_corpus, tmp_path / "run")


@pytest.fixture(scope="module")
def undisturbed(tiny_corpus: Path, tmp_path_factory) -> RunConfig:
    """The run of `config`, which nothing disturbed, with its ten checkpoints."""
    config = tiny_run(tiny_corpus, tmp_path_factory.mktemp("undisturbed") / "run")
    run(config)
    assert len(checkpoints(config)) == 10
    return config


@pytest.fixture(scope="module")
def rarely_saved(tiny_corpus: Path, tmp_path_factory) -> RunConfig:
    """A run that ends in its second epoch, with checkpoints at the ends of epochs only."""
    config = with_targets(tiny_run(tiny_corpus, tmp_path_factory.mktemp("rarely-saved") / "run"), 200)
    config = replace(
        config,
        checkpoint=CheckpointConfig(every_s=600.0, keep_last=1_000),
        optimizer=replace(config.optimizer, batch_size=24),  # about 58 updates in an epoch
        eval=replace(config.eval, every_targets=10**9),
    )
    run(config)
    return config


@pytest.fixture
def every_update_saved(monkeypatch) -> None:
    """Each save waits until it is written; otherwise a save during another one is skipped."""
    save = CheckpointWriter.save
    monkeypatch.setattr(CheckpointWriter, "save", lambda self, snapshot, *, wait=False: save(self, snapshot, wait=True))


@pytest.fixture
def built(monkeypatch) -> list[torch.nn.Module]:
    """The networks that training builds."""
    models: list[torch.nn.Module] = []
    build = wm.training.trainer.build_model

    def build_and_keep(*args):
        models.append(build(*args))
        return models[-1]

    monkeypatch.setattr(wm.training.trainer, "build_model", build_and_keep)
    return models


@pytest.fixture
def taken(monkeypatch) -> list[LocalBatch]:
    """The local batches that training takes."""
    shares: list[LocalBatch] = []
    following = BatchLoader.__next__

    def take_and_keep(self):
        shares.append(following(self))
        return shares[-1]

    monkeypatch.setattr(BatchLoader, "__next__", take_and_keep)
    return shares


@pytest.mark.parametrize("kind", ["sequence", "window", "mlp"])
def test_the_loss_falls(config, kind):
    config = replace(with_targets(config, 60), checkpoint=CheckpointConfig())
    if kind != "sequence":
        objective = ObjectiveConfig(kind="window", context_frames=6)
        optimizer = replace(config.optimizer, total_targets=60 * 64, batch_size=64, warmup_targets=64)
        config = replace(config, objective=objective, optimizer=optimizer)
    if kind == "mlp":
        config = replace(config, model=ModelConfig(kind="mlp", hidden_sizes=(32, 16)))
    rows: list[Row] = []
    result = run(config, rows=rows)
    falling = losses(config)
    assert len(falling) >= 55
    assert np.mean(falling[-10:]) < 0.8 * np.mean(falling[:5])
    assert result.rows == rows[-1:]
    assert result.rows[0]["context"] == (6 if kind == "mlp" else 5)
    assert result.rows[0]["num_targets"] == 60
    assert result.targets_seen >= config.optimizer.total_targets


def test_a_run_reports_a_row_per_context_at_each_validation(config):
    chosen = replace(config.eval, contexts=(1, 5, 9), validation_contexts=(1, 5), best_context=5)
    rows: list[Row] = []
    run(replace(config, eval=chosen), rows=rows)
    assert [row["context"] for row in rows] == [1, 5, 1, 5, 1, 5, 9]
    assert [row["num_targets"] for row in rows] == [20] * 4 + [60] * 3
    assert all(row["kind"] == "eval" for row in rows)
    assert all(np.isfinite([row["action_acc"], row["pos_mae"], row["val_loss"]]).all() for row in rows)
    assert [row for row in read_log(config.out) if row["kind"] == "eval"] == rows


def test_a_run_is_evaluated_at_the_whole_game_with_slices_at_its_end_and_not_again_when_it_has_finished(config):
    chosen = replace(config.eval, contexts=(5, "stream"), validation_contexts=("stream", 5))
    config = replace(config, eval=chosen)
    rows: list[Row] = []
    end = run(config, rows=rows).targets_seen
    assert [row["context"] for row in rows] == ["stream", 5, "stream", 5, 5, "stream"]
    evaluations = Run(config).evaluations
    [first, *_, last] = [evaluations.read(targets) for targets in evaluations.targets_seen()]
    assert first is not None and list(first) == ["stream", 5] and not first["stream"].slices
    assert last is not None and list(last) == [5, "stream"]
    assert last[5].slices.keys() == last["stream"].slices.keys() == {"action", "character", "since hit"}
    assert [(row["context"], row["num_targets"]) for row in rows[-2:]] == [(5, 60), ("stream", 60)]
    metrics = {row["context"]: row["change_acc"] for row in rows[-2:]}
    assert metrics == {context: metric_values(sums)["change_acc"] for context, sums in last.items()}
    assert rows[-1]["val_loss"] != rows[-2]["val_loss"]
    again: list[Row] = []
    assert run(config, rows=again, resume=checkpoints(config)[-1]).targets_seen == end
    assert again == rows[-2:]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.usefixtures("every_update_saved")
def test_a_resumed_run_takes_the_next_batch_and_makes_the_next_update_of_an_uninterrupted_one(
    config, tmp_path, taken, kind
):
    config = replace(config, optimizer=replace(config.optimizer, kind=kind))
    run(config)
    straight, straight_shares = checkpoints(config), taken.copy()
    assert len(straight) == 10
    half = straight[4]
    again = replace(config, out=tmp_path / "again")
    taken.clear()
    run(again, resume=half)
    for first, second in zip(straight_shares[5:], taken, strict=True):
        assert torch.equal(first.frames.floats, second.frames.floats)
        assert torch.equal(first.frames.codes, second.frames.codes)
        assert torch.equal(first.game, second.game)
    resumed = checkpoints(again)
    assert [path.name for path in resumed] == [path.name for path in straight[5:]]
    for first, second in zip(straight[5:], resumed, strict=True):
        assert_same_weights(weights(first), weights(second))
        assert_same_weights(optimizer_tensors(first), optimizer_tensors(second))
        assert open_checkpoint(first).meta["cursor"] == open_checkpoint(second).meta["cursor"]
    assert optimizer_tensors(half).keys()
    assert not all(torch.equal(t, weights(half)[n]) for n, t in weights(straight[5]).items())


@pytest.mark.usefixtures("every_update_saved")
def test_a_checkpoint_with_the_order_of_an_older_version_continues_at_the_beginning_of_its_pool(
    config, tmp_path, taken, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(wm.training.trainer, "ORDER_VERSION", 1)
        run(with_targets(config, 4))
    first = taken[0]
    taken.clear()
    again = replace(config, out=tmp_path / "again")
    run(again, resume=checkpoints(config)[1])
    assert torch.equal(taken[0].frames.floats, first.frames.floats)
    (problem,) = [row["message"] for row in read_log(again.out) if row["kind"] == "problem"]
    assert "continuing at the beginning of pool 0 of epoch 0" in problem


def test_a_run_with_automatic_batch_size_scales_its_learning_rate_logs_it_and_keeps_it_when_resumed(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(wm.training.schedule, "MIN_UPDATES", 5)
    monkeypatch.setattr(wm.training.schedule, "MIN_UPDATES_PER_EPOCH", 5)
    optimizer = replace(config.optimizer, batch_size="auto", reference_batch_size=16, total_targets=100 * STEP)
    config = replace(config, optimizer=optimizer, max_seconds=1e-9)
    run(config)
    (start,) = [row for row in read_log(config.out) if row["kind"] == "start"]
    batch_size = start["batch_size"]
    assert batch_size > 16
    assert start["learning_rate"] == pytest.approx(optimizer.learning_rate * (batch_size / 16) ** 0.5)
    assert start["warmup_targets"] == 8 * STEP  # one update with the reference batch, and one with this
    assert start["batch_size"] == 128
    adamw = load_resume(checkpoints(config)[-1])["optimizer"]["parts"][-1]
    assert [group["betas"] for group in adamw["param_groups"]] == [pytest.approx((0.5, 0.92))] * 2
    again = replace(config, out=tmp_path / "again", max_seconds=None)
    again = replace(again, optimizer=replace(optimizer, batch_size=8, learning_rate=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(wm.training.trainer.Trainer, "is_over", True)
        run(again, resume=checkpoints(config)[-1])
    resumed = [row for row in read_log(again.out) if row["kind"] == "start"][-1]
    assert {name: resumed[name] for name in ("batch_size", "learning_rate", "warmup_targets")} == {
        name: start[name] for name in ("batch_size", "learning_rate", "warmup_targets")
    }


@pytest.mark.parametrize("every_s", [0.2, 600.0])
def test_checkpoints_are_taken_by_time_and_at_the_ends_of_epochs(rarely_saved, tmp_path, every_s):
    config = rarely_saved
    if every_s != rarely_saved.checkpoint.every_s:
        config = replace(config, out=tmp_path / "run", checkpoint=replace(config.checkpoint, every_s=every_s))
        run(config)
    cursors = [Cursor(**open_checkpoint(path).meta["cursor"]) for path in checkpoints(config)]
    assert cursors[-1].epoch >= 1
    in_the_middle = [cursor for cursor in cursors[:-1] if (cursor.pool, cursor.batch) != (0, 0)]
    at_ends = [cursor.epoch for cursor in cursors[:-1] if cursor not in in_the_middle]
    if every_s < 1:
        assert in_the_middle
    else:
        assert (in_the_middle, at_ends[0]) == ([], 1)


def test_a_run_saves_at_a_stop_request_and_resumes_bit_for_bit(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(wm.runs.stop_request, "POLL_SECONDS", 0.0)
    stopped = replace(undisturbed, out=tmp_path / "stopped")
    Run(stopped).claim()
    update = wm.training.trainer.Trainer.update

    def update_and_request_stop(self, share):
        update(self, share)
        if self.num_updates == 4:
            self.run.stop_request.request()
            while not self.run.stop_request.is_set():  # a thread reads it
                pass

    with monkeypatch.context() as patch:
        patch.setattr(wm.training.trainer.Trainer, "update", update_and_request_stop)
        result = run(stopped)
    assert result.interrupted
    newest = checkpoints(stopped)[-1]
    assert open_checkpoint(newest).meta["step"] == 4
    assert not open_checkpoint(newest).meta["finished"]
    Run(stopped).stop_request.clear()
    assert not run(stopped, resume=newest).interrupted
    assert_same_weights(weights(checkpoints(undisturbed)[-1]), weights(checkpoints(stopped)[-1]))
    assert open_checkpoint(checkpoints(stopped)[-1]).meta["finished"]


@pytest.mark.parametrize("swap_players", [False, True])
def test_two_runs_are_equal_with_the_same_seed_and_differ_with_another(config, tmp_path, swap_players):
    config = with_targets(replace(config, objective=replace(config.objective, swap_players=swap_players)), 3)
    outcomes = []
    for number, seed in enumerate((1, 1, 2)):
        once = replace(config, seed=seed, out=tmp_path / str(number))
        run(once)
        outcomes.append(weights(checkpoints(once)[-1]))
    assert_same_weights(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0]["heads.linear.weight"], outcomes[2]["heads.linear.weight"])


@pytest.mark.usefixtures("every_update_saved")
def test_a_resumed_run_swaps_and_mirrors_the_same_examples(config, tmp_path):
    objective = replace(config.objective, swap_players=True, mirror=True)
    config = with_targets(replace(config, objective=objective), 4)
    run(config)
    again = replace(config, out=tmp_path / "again")
    run(again, resume=checkpoints(config)[1])
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(again)[-1]))


def test_a_run_that_reached_its_time_limit_can_be_resumed(config, tmp_path):
    config = with_targets(config, 4)
    run(config)
    timed = replace(config, out=tmp_path / "timed", max_seconds=1e-9)
    stopped = run(timed)
    assert stopped.targets_seen < 3 * STEP
    assert stopped.rows[0]["num_targets"] == 60
    result = run(replace(timed, max_seconds=None), resume=checkpoints(timed)[-1])
    assert result.targets_seen >= 4 * STEP
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(timed)[-1]))


def test_a_checkpoint_is_written_at_the_end_of_an_epoch_that_coincides_with_a_validation(rarely_saved, tmp_path):
    end_of_epoch = open_checkpoint(checkpoints(rarely_saved)[0]).meta["targets_seen"]
    both = replace(rarely_saved, out=tmp_path / "both", eval=replace(rarely_saved.eval, every_targets=end_of_epoch))
    rows: list[Row] = []
    run(both, rows=rows)
    assert rows[0]["targets_seen"] == end_of_epoch
    assert open_checkpoint(checkpoints(both)[0]).meta["targets_seen"] == end_of_epoch


def test_a_run_is_not_complete_before_its_final_evaluation(config, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    config = with_targets(replace(config, eval=replace(config.eval, every_targets=10**9)), 2)
    with monkeypatch.context() as patch:
        patch.setattr(wm.training.trainer.Trainer, "evaluate_at_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    newest = checkpoints(config)[-1]
    assert not Run(config).is_complete(open_checkpoint(newest).meta)
    assert run(config, resume=newest).rows[0]["num_targets"] == 60
    assert Run(config).is_complete(open_checkpoint(checkpoints(config)[-1]).meta)


def test_a_rollback_frees_the_weights_of_the_diverged_run_before_the_next_memory_check(config, built, monkeypatch):
    update, models, alive = wm.training.trainer.Trainer.update, [], []

    def diverge_once(self, share):
        if self.num_updates == 5 and not self.num_rollbacks:
            raise DivergedError("for this test")
        update(self, share)

    def check_memory(*_: object) -> None:
        models.append(weakref.ref(built.pop()))
        alive.append([model() is not None for model in models])

    monkeypatch.setattr(wm.training.open_batches, "check_memory", check_memory)
    monkeypatch.setattr(wm.training.trainer.Trainer, "update", diverge_once)
    gc.disable()
    try:
        run(replace(config, divergence=replace(config.divergence, action="rollback")))
    finally:
        gc.enable()
    assert alive == [[True], [False, True]]


def test_training_a_finished_run_again_evaluates_it_and_changes_nothing_else(config):
    config = with_targets(config, 2)
    first = run(config)
    before = weights(checkpoints(config)[-1])
    second = run(config, resume=checkpoints(config)[-1])
    assert second.targets_seen == first.targets_seen
    assert_same_weights(before, weights(checkpoints(config)[-1]))
    for name in ("change_acc", "action_acc", "pos_mae", "val_loss"):
        assert second.rows[0][name] == first.rows[0][name]


KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.runs.console import format_row
from wm.runs.run import Run
from wm.training.trainer import train

config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
run = Run(config)
run.claim()
reports = []

def report(rows):
    reports.append(rows)
    if len(reports) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train(run, open_data(config), report, None)
"""


def test_a_killed_run_resumes_from_its_last_checkpoint_and_drops_later_log_rows(undisturbed, tmp_path):
    killed = replace(undisturbed, out=tmp_path / "killed")
    script = [sys.executable, "-c", KILLED, json.dumps(to_plain(killed))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]
    newest = open_checkpoint(killed.out).path
    with (killed.out / "log.jsonl").open("a") as log:
        log.write(json.dumps(read_log(killed.out)[-1] | {"targets_seen": 100 * STEP}) + "\n")
    seen = open_checkpoint(newest).meta["targets_seen"]
    assert max(row["targets_seen"] for row in read_log(killed.out)) > seen
    with (killed.out / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "targets_se')
    run(killed, resume=newest)
    assert_same_weights(weights(checkpoints(undisturbed)[-1]), weights(checkpoints(killed)[-1]))
    logged = [
        [(row["kind"], row["targets_seen"]) for row in read_log(c.out) if row["kind"] in ("train", "eval")]
        for c in (undisturbed, killed)
    ]
    assert logged[0] == logged[1]
    assert losses(undisturbed) == losses(killed)


def test_log_profile_and_environment_name_the_scan_that_runs_not_the_one_that_was_asked_for(config):
    config = replace(with_targets(config, 1), model=replace(config.model, scan_backend="auto"))
    run(config)
    start = next(row for row in read_log(config.out) if row["kind"] == "start")
    profile, environment = (
        json.loads((config.out / name).read_text()) for name in ("profile.json", "environment.json")
    )
    assert start["scan_backend"] == profile["core"] == environment["attempts"][-1]["scan_backend"] == "torch"


def test_a_note_about_the_scan_is_a_line_of_the_log(config, monkeypatch):
    choice = ScanChoice(backend="torch", note="the scan runs in plain torch: no compiler")
    monkeypatch.setattr("wm.training.device.choose_scan_backend", lambda *_: choice)
    run(with_targets(config, 1))
    assert choice.note in [row.get("message") for row in read_log(config.out) if row["kind"] == "problem"]


@pytest.mark.usefixtures("every_update_saved")
def test_too_high_a_learning_rate_stops_the_run_before_the_update_that_would_ruin_it(config, built):
    config = replace(config, optimizer=replace(config.optimizer, learning_rate=1e30))
    with pytest.raises(DivergedError, match="lower optimizer"):
        run(config)
    kept = checkpoints(config)
    assert len(kept) < 10
    assert_same_weights(weights(kept[-1]), dict(built[-1].state_dict()))


@pytest.mark.usefixtures("every_update_saved")
def test_a_nan_weight_stops_the_run_before_any_update(config, tmp_path, built, monkeypatch):
    run(with_targets(config, 2))

    def load_with_nan(model, path):
        load_weights(model, path)
        with torch.no_grad():
            model.get_parameter("heads.linear.bias")[0] = float("nan")

    monkeypatch.setattr(wm.training.starting_point, "load_weights", load_with_nan)
    again = replace(config, out=tmp_path / "again")
    with pytest.raises(DivergedError, match="not finite"):
        run(again, resume=checkpoints(config)[0])
    assert not checkpoints(again)
    for name, tensor in weights(checkpoints(config)[0]).items():
        found = dict(built[-1].state_dict())[name].clone()
        if name == "heads.linear.bias":
            assert found[0].isnan()
            found[0] = tensor[0]
        assert torch.equal(found, tensor), name


def test_examples_longer_than_any_game_are_rejected_before_training(config):
    with pytest.raises(UserError, match="an example needs 100001"):
        open_data(replace(config, objective=ObjectiveConfig(sequence_frames=100_000)))


def test_a_run_resumes_from_a_corpus_that_moved_with_the_same_updates_and_says_what_changed(undisturbed, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(undisturbed.train_corpus, moved)
    again = replace(undisturbed, out=tmp_path / "again")
    Run(again).claim()
    half = checkpoints(undisturbed)[4]
    shutil.copytree(half, again.out / "checkpoints" / half.name)
    again = replace(again, train_corpus=moved, eval=replace(again.eval, num_targets=40))
    result = run(again, resume=checkpoints(again)[-1])
    assert result.rows[0]["num_targets"] == 40
    assert_same_weights(weights(checkpoints(undisturbed)[-1]), weights(checkpoints(again)[-1]))
    start = [row for row in read_log(again.out) if row["kind"] == "start"][-1]
    assert start["changed"] == (f"train_corpus {moved} (was {undisturbed.train_corpus}), eval.num_targets 40 (was 60)")
    assert "resumed at 640 targets with train_corpus" in format_row(start, again)


def test_a_run_is_not_resumed_on_a_changed_corpus(config):
    data = open_data(config)
    fewer = replace(data, evaluation=data.train)
    meta = {"games": games_digest(data)}
    check_same_games(meta, data)
    with pytest.raises(UserError, match="are not those of its last checkpoint"):
        check_same_games(meta, fewer)
