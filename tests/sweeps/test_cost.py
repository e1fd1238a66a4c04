"""The cost of a trial: parameters and FLOPs, counted on the network itself."""

from __future__ import annotations

from typing import Any

import pytest

from tune.config import SweepConfig
from tune.search.cost import cost_of
from tune.search.trials import trials_of
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.model.world_model import build_model, num_parameters


def a_sweep(**content: Any) -> SweepConfig:
    return from_plain(content, SweepConfig, "sweep.yaml")


def test_the_cost_of_a_context_grows_with_it_and_counts_the_network_itself():
    trial = trials_of(a_sweep(axes={"size": ["small"]}, base={"eval": {"contexts": [1, 10, 20]}}))[0]
    cost = cost_of(trial.config)
    assert cost.num_parameters == num_parameters(build_model(trial.config.model, 10))
    assert cost.window_flops[1] > 2 * 0.8 * cost.num_parameters
    assert 5 < cost.window_flops[10] / cost.window_flops[1] < 10  # the heads run once
    window = a_sweep(base={"objective": {"kind": "window", "context_frames": 10}}, axes={"size": ["small"]})
    assert 5 < cost_of(trials_of(window)[0].config).train_flops_per_target / cost.train_flops_per_target < 10


@pytest.mark.parametrize("recipe", ["two_passes", "unroll"])
def test_what_feeds_predictions_back_is_one_more_forward_pass(recipe):
    plain = cost_of(RunConfig())
    fed_back = cost_of(from_plain({"objective": {"rollout": {recipe: {"share": 0.5}}}}, RunConfig, "run.yaml"))
    assert fed_back.train_flops_per_target == pytest.approx(3.5 / 3 * plain.train_flops_per_target)
    assert fed_back.window_flops == plain.window_flops


def test_the_cost_is_counted_for_windows_longer_than_a_chunk_of_the_scan():
    axes = {"size": ["small"], "objective.kind": ["sequence", "window"], "objective.context_frames": [120]}
    sequence, window = (cost_of(t.config) for t in trials_of(a_sweep(axes=axes, base={"eval": {"contexts": [1, 120]}})))
    assert sequence.window_flops[120] == window.window_flops[120] > 50 * sequence.window_flops[1]
