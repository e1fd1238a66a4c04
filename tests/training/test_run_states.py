"""Trained, evaluated, finished: a kill between two of these marks loses nothing and repeats nothing."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import STEP, assert_same_weights, checkpoints, run, tiny_run, weights, with_targets

import wm.training.trainer
from tune.config import ChoiceConfig
from tune.results.sweep_folder import SweepManifest, rows_of
from wm.checkpoints.reader import open_checkpoint
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import to_plain
from wm.evaluation.game_sums import metric_values
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.divergence import DivergedError
from wm.training.trainer import Trainer
from wm.training.validation import Row, Validation

KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import wm.training.trainer
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training.recorder import Recorder
from wm.training.trainer import Trainer, train
from wm.training.validation import Validation

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_if(condition, function):
    return lambda self, *a, **k: kill() if condition(self, *a, **k) else function(self, *a, **k)

def train_until(moment, config):
    if moment == "in the final evaluation":
        Validation.evaluate_at_end = kill
    elif moment == "between two rows of the log":
        judged = lambda self, kind, **row: row.get("num_targets") == 60 and row["context"] == 5
        Recorder.log = kill_if(judged, Recorder.log)
    elif moment == "before the checkpoint of the evaluation":
        Trainer.save = kill_if(lambda self, **_: self._evaluated is not None, Trainer.save)
    run = Run(config)
    run.claim()
    train(run, open_data(config), lambda rows: None, None)
    kill()

for moment, plain in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        train_until(moment, from_plain(plain, RunConfig, "test"))
    assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL, moment
"""
"""Trains a run until each moment in a process of its own, which need not import torch again."""
EVALUATES_AGAIN = {
    "in the final evaluation": True,
    "between two rows of the log": False,
    "before the checkpoint of the evaluation": False,
    "after the last checkpoint": False,
}
"""Moment of a kill -> whether the final evaluation has yet to be made."""


@pytest.fixture(scope="module")
def config(tiny_corpus: Path, tmp_path_factory) -> RunConfig:
    """A run of two updates, evaluated at two contexts, without a validation before its end."""
    config = with_targets(tiny_run(tiny_corpus, tmp_path_factory.mktemp("states") / "undisturbed"), 2)
    return replace(config, eval=replace(config.eval, contexts=(2, 5), every_targets=10**9))


@pytest.fixture(scope="module")
def undisturbed(config) -> list[Row]:
    """The rows of the final evaluation of a run that nothing disturbs."""
    return run(config).rows


@pytest.fixture(scope="module")
def killed_runs(config, tmp_path_factory) -> dict[str, RunConfig]:
    """For each moment a run that was killed then."""
    folder = tmp_path_factory.mktemp("killed")
    runs = {moment: replace(config, out=folder / str(number)) for number, moment in enumerate(EVALUATES_AGAIN)}
    script = [sys.executable, "-c", KILLED, json.dumps({moment: to_plain(run) for moment, run in runs.items()})]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    return runs


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Updates and final evaluations of this process."""
    made: list[str] = []
    for owner, name in ((Trainer, "update"), (Validation, "evaluate_at_end")):
        function = getattr(owner, name)

        def call_and_count(self, *args, name=name, function=function):
            made.append(name)
            return function(self, *args)

        monkeypatch.setattr(owner, name, call_and_count)
    return made


def newest(config: RunConfig) -> dict:
    return open_checkpoint(config.out).meta


def final_rows(config: RunConfig) -> list[Row]:
    return [row for row in read_log(config.out) if row["kind"] == "eval"]


def values(rows: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("moment", EVALUATES_AGAIN)
def test_a_kill_at_the_end_of_a_run_repeats_no_update_and_leaves_one_final_evaluation(
    config, undisturbed, killed_runs, calls, moment
):
    killed = killed_runs[moment]
    meta = newest(killed)
    assert meta["trained"]
    assert meta["finished"] == Run(killed).is_complete(meta) == (moment == "after the last checkpoint")
    rows: list[Row] = []
    result = run(killed, resume=checkpoints(killed)[-1], rows=rows)
    assert calls == ["evaluate_at_end"] * EVALUATES_AGAIN[moment]
    assert values(rows) == values(result.rows) == values(final_rows(killed)) == values(undisturbed)
    assert Run(killed).is_complete(newest(killed))
    assert_same_weights(weights(checkpoints(config)[-1]), weights(checkpoints(killed)[-1]))
    assert newest(killed)["best"] == newest(config)["best"]


def test_the_stored_sums_have_the_metrics_of_the_logged_rows_exactly(config, undisturbed):
    (targets_seen,) = Run(config).evaluations.targets_seen()
    stored = Run(config).evaluations.read(targets_seen)
    assert stored is not None
    assert [row["context"] for row in undisturbed] == list(stored) == [2, 5]
    for row, sums in zip(undisturbed, stored.values(), strict=True):
        assert row["targets_seen"] == targets_seen
        assert sums.num_frames.sum() == row["num_targets"] == 60
        assert {name: row[name] for name in metric_values(sums)} == metric_values(sums)


def test_a_finished_run_that_is_asked_for_more_frames_is_evaluated_again_and_not_trained(config, tmp_path, calls):
    config = replace(config, out=tmp_path / "run")
    run(config)
    more = replace(config, eval=replace(config.eval, num_targets=90, contexts=(2, 5, 7), best_context=5))
    assert Run(config).is_complete(newest(config)) and not Run(more).is_complete(newest(config))
    calls.clear()
    result = run(more, resume=checkpoints(more)[-1])
    assert calls == ["evaluate_at_end"]
    assert [(row["context"], row["num_targets"]) for row in result.rows] == [(2, 90), (5, 90), (7, 90)]
    assert Run(more).is_complete(newest(more))


def test_with_as_many_frames_at_the_end_as_in_a_validation_the_end_is_evaluated_once(config, tmp_path, monkeypatch):
    config = replace(config, out=tmp_path / "run")
    config = replace(config, eval=replace(config.eval, contexts=(5,), num_targets=20, every_targets=STEP))
    evaluated = []
    evaluate = wm.training.validation.evaluate_contexts
    monkeypatch.setattr(
        wm.training.validation, "evaluate_contexts", lambda *args: evaluated.append(args[2]) or evaluate(*args)
    )
    result = run(config)
    assert len(evaluated) == len({row["targets_seen"] for row in final_rows(config)}) == 2
    assert result.rows[0]["targets_seen"] == result.targets_seen


def test_the_last_checkpoint_is_compared_with_the_others_on_the_frames_of_a_validation(config, tmp_path, capsys):
    config = replace(with_targets(config, 8), out=tmp_path / "run")
    config = replace(config, eval=replace(config.eval, contexts=(2, 5), every_targets=2 * STEP, best_metric="pos_mae"))
    rows: list[Row] = []
    run(config, rows=rows)
    metas = [open_checkpoint(path).meta for path in checkpoints(config)]
    validated = {meta["targets_seen"]: meta["validation"] for meta in metas if meta["validation"]}
    assert max(validated) == metas[-1]["targets_seen"]
    assert {row["num_targets"] for own in validated.values() for row in own} == {20}
    assert {row["num_targets"] for row in metas[-1]["metrics"]} == {60}
    errors = {at: own[0]["pos_mae"] for at, own in validated.items()}
    best = min(errors, key=lambda at: errors[at])
    assert metas[-1]["best"] == {
        "metric": "pos_mae", "context": 5, "num_targets": 20, "targets_seen": best, "value": errors[best]
    }  # fmt: skip
    assert open_checkpoint(config.out / "best").meta["targets_seen"] == best
    best_one, options = config.out / "best", {"split": "all", "num_targets": 20, "num_dreams": 0}
    found = evaluate_checkpoint(best_one, config.train_corpus, ("5",), **options)
    assert found["training"]["targets_seen"] == best
    assert f"pos_mae {errors[best]:.3f} at K = 5 on 20 frames, after {best:,} targets" in capsys.readouterr().out
    assert (config.out / "eval.json").exists()


def test_evaluations_after_the_checkpoint_are_removed_by_a_resume_and_by_a_rollback(config, tmp_path, monkeypatch):
    config = replace(with_targets(config, 6), out=tmp_path / "run")
    config = replace(config, eval=replace(config.eval, every_targets=STEP))
    run(config)
    evaluations, first = Run(config).evaluations, checkpoints(config)[0]
    before = {at: evaluations.read(at) for at in evaluations.targets_seen()}
    stored_at: list[list[int]] = []
    update = Trainer.update

    def update_and_diverge_once(self, share):
        stored_at.append(evaluations.targets_seen())
        if self.num_updates == 4 and not self.num_rollbacks:
            raise DivergedError("for this test")
        update(self, share)

    monkeypatch.setattr(Trainer, "update", update_and_diverge_once)
    resumed_at = open_checkpoint(first).meta["targets_seen"]
    run(replace(config, divergence=replace(config.divergence, action="rollback")), resume=first)
    assert max(stored_at[0]) == resumed_at < max(before)
    assert all(max(at) <= 5 * (STEP + 16) for at in stored_at)
    assert [row["targets_seen"] for row in final_rows(config) if row["context"] == 5] == evaluations.targets_seen()


def test_a_rollback_leaves_nothing_that_keeps_the_diverged_trainer(config, tmp_path, monkeypatch):
    config = replace(with_targets(config, 4), out=tmp_path / "run")
    begin, update, trainers, alive = Trainer.__init__, Trainer.update, [], []

    def begin_and_look(self, *args):
        alive.append([trainer() is not None for trainer in trainers])
        begin(self, *args)
        trainers.append(weakref.ref(self))

    def diverge_once(self, share):
        if self.num_updates == 2 and not self.num_rollbacks:
            raise DivergedError("for this test")
        update(self, share)

    monkeypatch.setattr(Trainer, "__init__", begin_and_look)
    monkeypatch.setattr(Trainer, "update", diverge_once)
    gc.collect()
    gc.disable()
    try:
        run(replace(config, divergence=replace(config.divergence, action="rollback")))
    finally:
        gc.enable()
    assert alive == [[], [False]]


def test_a_sweep_takes_the_final_evaluation_of_a_trial_although_its_log_lost_the_rows(config, undisturbed, tmp_path):
    trial = replace(config, out=tmp_path / "trials" / "one")
    trial = replace(trial, eval=replace(trial.eval, every_targets=STEP, validation_contexts=(2, 5)))
    result = run(trial)
    log = trial.out / "log.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line).get("num_targets") != 60]
    log.write_text("\n".join([*kept, ""]))
    facts = {
        "axes": {},
        "num_parameters": 1,
        "train_flops_per_target": 1.0,
        "window_flops": {"2": 1.0, "5": 1.0},
        "run": to_plain(trial),
    }
    rows = rows_of(SweepManifest(out=tmp_path, choice=ChoiceConfig(), trials={"one": facts}), "one")
    last = [row for row in rows if row.targets_seen == result.targets_seen]
    assert [(row.context, row.num_judged, row.pos_mae) for row in last] == [
        (row["context"], 60, row["pos_mae"]) for row in result.rows
    ]
    assert {row.state for row in rows} == {"finished"}
    assert np.isfinite([row.pos_mae for row in last]).all() and torch.isfinite(torch.tensor(last[0].val_loss))
