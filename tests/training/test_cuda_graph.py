"""Replayed updates: what stands in for a CUDA graph here repeats the captured update on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny_run
from torch import Tensor

from wm.config.run_config import RunConfig
from wm.data.synthetic_batch import synthetic_batch
from wm.model.world_model import build_model
from wm.training.compilation import WARM_UP_UPDATES, Capture, GraphedUpdate
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep

CPU = torch.device("cpu")
NUM_UPDATES = WARM_UP_UPDATES + 3


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    tiny = tiny_run(tmp_path, tmp_path)
    return replace(tiny, objective=replace(tiny.objective, swap_players=True))


def repeating(work: Callable[[], None]) -> Callable[[], None]:
    """As a capture: does nothing now, and the same with the same tensors later."""
    return work


def refusing(_work: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nfor debugging ...")


def trained(config: RunConfig, capture: Capture | None, problems: list[str]) -> list[Tensor]:
    """Weights after updates on different batches, one of them smaller."""
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames)
    step = TrainStep(model, Optimizer(model, config), config, CPU)
    if capture is not None:
        step._graphed = GraphedUpdate(step._update, problems.append, capture)
    for number in range(NUM_UPDATES):
        size = 3 if number == NUM_UPDATES - 2 else 4
        batch = synthetic_batch(config, size, CPU)
        shifted = replace(batch.frames, floats=batch.frames.floats + number)
        step(replace(batch, frames=shifted), 1e-3 / (number + 1), number)
    assert step.is_captured == (capture is repeating)
    return [*model.parameters(), step._sums]


def test_replayed_updates_are_those_of_eager_mode_also_after_a_batch_of_another_shape(config):
    expected, found = trained(config, None, []), trained(config, repeating, problems := [])
    assert all(torch.equal(now, then) for now, then in zip(found, expected, strict=True))
    assert not problems


def test_an_update_that_cannot_be_captured_is_made_in_eager_mode_and_said_in_one_line(config):
    expected, found = trained(config, None, []), trained(config, refusing, problems := [])
    assert all(torch.equal(now, then) for now, then in zip(found, expected, strict=True))
    (line,) = problems
    assert line.startswith("the update cannot be captured as a CUDA graph; continuing without one (RuntimeError: ")
    assert "\n" not in line


@pytest.mark.parametrize("change", [{"num_workers": 2}, {"kind": "muon"}])
def test_a_config_that_cannot_be_captured_is_refused(config, change):
    optimizer = replace(config.optimizer, kind=change.pop("kind", "adamw"))
    with pytest.raises(ValueError, match="cuda_graph=True takes"):
        replace(config, cuda_graph=True, optimizer=optimizer, **change)
