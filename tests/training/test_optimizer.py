"""The optimizer clips as torch does, and a gradient that is not finite changes nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run
from torch import Tensor, nn

from wm.config.run_config import RunConfig
from wm.model.world_model import WorldModel, build_model
from wm.training.optimizer import Optimizer


@pytest.fixture(params=["adamw", "muon"])
def config(request, tmp_path: Path) -> RunConfig:
    tiny = tiny_run(tmp_path, tmp_path)
    return replace(tiny, optimizer=replace(tiny.optimizer, kind=request.param))


def built(config: RunConfig) -> tuple[WorldModel, Optimizer]:
    """A network with the state of two updates."""
    torch.manual_seed(0)
    model = build_model(config.model, 5)
    optimizer = Optimizer(model, config)
    for _ in range(2):
        give_gradients(model)
        optimizer.clip_and_step()
    return model, optimizer


def give_gradients(model: WorldModel) -> list[Tensor]:
    """A gradient for each parameter, with a norm far above the clipping limit."""
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def state_of(model: WorldModel, optimizer: Optimizer) -> list[Tensor]:
    """Weights, moments and step counters."""
    parts = optimizer.state_dict()["parts"]
    moments = [tensor for part in parts for state in part["state"].values() for tensor in state.values()]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *moments)]


def poison(model: WorldModel) -> None:
    gradient = next(model.parameters()).grad
    assert gradient is not None
    gradient.view(-1)[0] = torch.inf


def test_a_gradient_that_is_not_finite_leaves_weights_and_moments_as_they_are(config):
    model, optimizer = built(config)
    give_gradients(model)
    poison(model)
    before = state_of(model, optimizer)
    assert not torch.isfinite(optimizer.clip_and_step())
    assert all(torch.equal(now, then) for now, then in zip(state_of(model, optimizer), before, strict=True))


@pytest.mark.parametrize("config", ["adamw"], indirect=True)
def test_adamw_skips_such_an_update_without_the_host_reading_the_norm(config, monkeypatch):
    model, optimizer = built(config)
    monkeypatch.setattr(Optimizer, "waits_for_norm", False)  # as on CUDA
    give_gradients(model)
    poison(model)
    before = state_of(model, optimizer)
    optimizer.clip_and_step()
    assert all(torch.equal(now, then) for now, then in zip(state_of(model, optimizer), before, strict=True))
    give_gradients(model)
    optimizer.clip_and_step()
    assert not torch.equal(state_of(model, optimizer)[0], before[0])


def test_an_update_equals_that_of_clipped_gradients(config):
    model, optimizer = built(config)
    other, reference = copy.deepcopy((model, optimizer))
    gradients = give_gradients(model)
    for parameter, gradient in zip(other.parameters(), gradients, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(other.parameters(), config.optimizer.max_grad_norm)
    reference._max_grad_norm = 1e9
    reference.clip_and_step()
    assert norm > 2 * config.optimizer.max_grad_norm
    torch.testing.assert_close(optimizer.clip_and_step(), norm)
    torch.testing.assert_close(state_of(model, optimizer), state_of(other, reference), rtol=1e-5, atol=1e-7)


def test_a_state_is_restored_whatever_device_it_was_saved_on(config):
    model, optimizer = built(config)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["parts"][-1]["param_groups"]:
        group |= {"capturable": True, "lr": torch.tensor(0.5)}  # as CUDA needs them
    other, resumed = built(config)
    give_gradients(other)
    resumed.clip_and_step()  # so that its moments are others
    resumed.load_state_dict(saved)
    restored, written = (state_of(nn.Module(), one) for one in (resumed, optimizer))
    torch.testing.assert_close(restored, written)
    give_gradients(model)
    resumed.set_learning_rate(1e-3)
    for group in resumed.state_dict()["parts"][-1]["param_groups"]:
        assert (group["capturable"], group["lr"]) == (False, 1e-3)
