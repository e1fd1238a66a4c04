"""Training against drift: off, it changes no bit; on, a run resumes bit for bit and is the same on any division."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_distributed import assert_equal_to_rounding, job, run_on_one_rank, run_on_two_ranks, unclipped
from tiny_runs import assert_same_weights, checkpoints, losses, run, tiny_run, weights, with_targets

from datasets.loading.frames import read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.errors import UserError
from wm.checkpoints.reader import load_resume
from wm.config.rollout_config import NoiseConfig, RolloutConfig, TwoPassConfig, UnrollConfig
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain, to_plain
from wm.model.encoding import to_frames
from wm.model.motion.candidates import Physics
from wm.model.motion.choice import modes_of
from wm.objective import rollout_inputs
from wm.objective.rollout_inputs import RolloutInputs
from wm.training.memory_check import preserve_state
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep
from wm.training.trainer import build_model

EVERYTHING = RolloutConfig(
    noise=NoiseConfig(share=0.6, confusion=0.1),
    two_passes=TwoPassConfig(share=0.4),
    unroll=UnrollConfig(share=0.4, frames=(1, 3), temperature=0.5),
)
NEVER_DRAWN = 1e-12


def with_rollout(config: RunConfig, rollout: RolloutConfig) -> RunConfig:
    return replace(config, objective=replace(config.objective, rollout=rollout))


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path) -> RunConfig:
    return with_targets(tiny_run(tiny_corpus, tmp_path / "run"), 6)


@pytest.fixture(scope="module")
def plain(tiny_corpus: Path, tmp_path_factory) -> RunConfig:
    """The run of `config`, finished."""
    config = with_targets(tiny_run(tiny_corpus, tmp_path_factory.mktemp("plain") / "run"), 6)
    run(config)
    return config


def test_no_input_is_changed_by_default(config):
    step_of = TrainStep(model := build_model(config.model, 10), Optimizer(model, config), config, torch.device("cpu"))
    assert step_of.rollout is None


def test_a_recipe_that_is_never_drawn_changes_no_bit_of_a_run(plain, tmp_path):
    off = RolloutConfig(two_passes=TwoPassConfig(share=NEVER_DRAWN), unroll=UnrollConfig(share=NEVER_DRAWN))
    other = with_rollout(replace(plain, out=tmp_path / "other"), off)
    run(other)
    assert_same_weights(weights(checkpoints(plain)[-1]), weights(checkpoints(other)[-1]))


@pytest.mark.parametrize(
    "rollout",
    [
        RolloutConfig(noise=NoiseConfig(share=1.0)),
        RolloutConfig(two_passes=TwoPassConfig(share=1.0)),
        RolloutConfig(unroll=UnrollConfig(share=1.0)),
    ],
    ids=["noise", "two passes", "unroll"],
)
def test_each_recipe_changes_what_a_run_learns(plain, tmp_path, rollout):
    other = with_rollout(replace(plain, out=tmp_path / "other"), rollout)
    run(other)
    assert losses(plain) != losses(other)
    assert all(loss < 100 for loss in losses(other))


def test_a_network_that_predicts_flags_feeds_back_sampled_ones(config):
    fed_back = RolloutConfig(two_passes=TwoPassConfig(share=0.5), unroll=UnrollConfig(share=0.5, temperature=1.0))
    config = with_rollout(replace(config, model=replace(config.model, encoding=4)), fed_back)
    run(config)
    assert all(loss < 100 for loss in losses(config))


def test_inputs_that_are_not_true_keep_the_rules_of_the_true_motion(config, index):
    config = with_rollout(config, RolloutConfig(two_passes=TwoPassConfig(share=1.0)))
    rows = np.add.outer(np.arange(4) * 300 + COUNTDOWN_FRAMES, np.arange(17))
    frames = to_frames(take_rows(read_games(index, [0]), index.facts[[0] * 4], rows))
    model = build_model(config.model, 10)
    inputs = RolloutInputs(config, torch.device("cpu"))(model, frames, 0, 4, 0)
    assert not torch.equal(inputs.frames.floats, frames.floats)
    assert torch.equal(inputs.true_modes, modes_of(Physics(), frames))
    assert not torch.equal(inputs.true_modes, modes_of(Physics(), inputs.frames))


def test_a_resumed_run_gets_the_inputs_of_an_uninterrupted_one(config, tmp_path):
    whole = with_rollout(config, EVERYTHING)
    run(whole)
    other = replace(whole, out=tmp_path / "other")
    run(other, resume=checkpoints(whole)[2])
    assert_same_weights(weights(checkpoints(whole)[-1]), weights(checkpoints(other)[-1]))
    states = [load_resume(checkpoints(one)[-1])["rollout"] for one in (whole, other)]
    assert torch.equal(*(state["mean_errors"] for state in states))
    assert (states[0]["mean_errors"] > 0).all()
    for name, table in states[0]["confusions"].items():
        assert torch.equal(table, states[1]["confusions"][name])


def test_micro_batches_get_the_inputs_of_the_whole_batch(config, tmp_path):
    whole = unclipped(with_rollout(config, EVERYTHING))
    run(whole)
    parts = replace(whole, out=tmp_path / "parts", optimizer=replace(whole.optimizer, micro_batch_size=3))
    run(parts)
    assert_equal_to_rounding(weights(checkpoints(parts)[-1]), weights(checkpoints(whole)[-1]))


def test_two_ranks_make_the_updates_of_one_with_every_recipe(tiny_corpus, tmp_path):
    config = unclipped(with_targets(tiny_run(tiny_corpus, tmp_path / "runs"), 6))
    config = with_rollout(config, EVERYTHING)
    config.out.mkdir()
    one = run_on_one_rank(config, job(config, "one"))["one"]
    two = run_on_two_ranks(config, [job(config, "two"), job(config, "more", "one")])
    for name in ("two", "more"):
        assert_same_weights(two[name].weights[0], two[name].weights[1])
        assert_equal_to_rounding(two[name].weights[0], one.weights[0])


def test_the_check_of_the_memory_leaves_the_estimates_as_they_were(config):
    config = with_rollout(config, EVERYTHING)
    from wm.data.synthetic_batch import synthetic_batch

    device = torch.device("cpu")
    step = TrainStep(model := build_model(config.model, 10), Optimizer(model, config), config, device)
    assert step.rollout is not None and step.rollout.errors is not None
    batch = synthetic_batch(config, 4, device)
    with preserve_state(step):
        step(batch, 1e-3, 0)
    assert (step.rollout.errors.mean_errors == 0).all() and (step.rollout.errors.sums == 0).all()
    step(batch, 1e-3, 0)
    assert (step.rollout.errors.mean_errors > 0).all()


def test_updates_are_drawn_by_their_shares_alike_on_every_rank(config, monkeypatch):
    config = with_rollout(config, EVERYTHING)
    calls = []
    for name in ("two_passes", "unrolled"):
        monkeypatch.setattr(
            rollout_inputs, name,
            lambda model, rules, frames, *rest, name=name: (calls.append(name), (frames, rest[-1]))[1],
        )  # fmt: skip
    model = build_model(config.model, 10)
    from wm.data.synthetic_batch import synthetic_batch

    frames = synthetic_batch(config, 2, torch.device("cpu")).frames
    drawn = []
    for first in (0, 6):
        inputs, calls[:] = rollout_inputs.RolloutInputs(config, torch.device("cpu")), []
        for number in range(500):
            inputs(model, frames, number, 8, first)
        drawn.append(list(calls))
    assert drawn[0] == drawn[1]
    assert drawn[0].count("two_passes") / 500 == pytest.approx(0.4, abs=0.06)
    assert drawn[0].count("unrolled") / 500 == pytest.approx(0.4, abs=0.06)


@pytest.mark.slow
def test_a_compiled_network_is_compiled_once_and_learns_the_same(config, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    config = with_rollout(config, EVERYTHING)
    run(config)
    torch._dynamo.utils.counters.clear()
    compiled = replace(config, out=tmp_path / "compiled", compile="always")
    run(compiled)
    assert losses(compiled) == pytest.approx(losses(config), rel=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("rollout", [EVERYTHING])
def test_bf16_trains_with_every_recipe(config, rollout):
    run(with_rollout(replace(config, precision="bf16"), rollout))
    assert all(loss < 100 for loss in losses(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "window", "rollout": {"noise": {"share": 0.5}}}}, "window; set .*noise.share to 0"),
        ({"objective": {"rollout": {"unroll": {"share": 0.5, "frames": [3, 1]}}}}, "numbers that do not fall"),
        ({"objective": {"rollout": {"unroll": {"share": 0.5, "frames": [40]}}}}, "at most half of sequence_frames=64"),
        ({"objective": {"rollout": {"unroll": {"share": 0.6}, "two_passes": {"share": 0.6}}}}, "a sum of at most 1"),
        ({"objective": {"rollout": {"noise": {"share": 1.5}}}}, "noise.share: found 1.5"),
        ({"objective": {"rollout": {"two_passes": {"share": 1, "replaced": 0.5}}}}, "replaced: found 0.5"),
        (
            {"objective": {"sequence_frames": 5, "rollout": {"two_passes": {"share": 1}}}},
            "longest_run=4: expected at most sequence_frames - 2 = 3",
        ),
        (
            {"cuda_graph": True, "objective": {"rollout": {"noise": {"share": 0.5}}}},
            "takes no objective.rollout, .*noise.share to 0",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(changes, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        from_plain(changes, RunConfig, "run.yaml")


def test_the_options_survive_a_round_trip():
    config = with_rollout(RunConfig(), EVERYTHING)
    assert from_plain(to_plain(config), RunConfig, "again") == config
