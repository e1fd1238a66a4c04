"""torch.compile, which fuses the element-wise work between a network's matrix products.

On two CPU cores a compiled step is 1.15 times as fast, and most of a minute goes into compiling it (ten seconds where
it was compiled before); on CUDA nobody has measured it. Only batches of full size are compiled: the last one of an
epoch and those of the judge are too few to be worth a minute for each shape.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch

from wm.config.run_config import RunConfig
from wm.model.world_model import Mamba2WorldModel, WorldModel, num_parameters

WORTH_IT_FLOPS = 7e13
"""Of a worker's whole schedule, counted as 6 a parameter and target: about eight minutes of two CPU cores."""


def is_to_be_compiled(model: WorldModel, config: RunConfig, device: torch.device) -> bool:
    """Whether a run's network is to be compiled; `auto`: on a CPU with a C++ compiler, if its schedule is worth it."""
    if not isinstance(model, Mamba2WorldModel) or config.compile == "never":
        return False
    flops = 6 * num_parameters(model) * config.optimizer.total_targets / config.num_workers
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    pays = device.type == "cpu" and has_compiler is not None and flops >= WORTH_IT_FLOPS
    return config.compile == "always" or pays


def is_compiled(model: WorldModel) -> bool:
    """Whether batches of the shape that `compile_for` saw run compiled."""
    return model._compiled_call_impl is not None


def compile_for(model: WorldModel, update: Callable[[], None]) -> str | None:
    """Make an update with the network compiled for its batch; from then on other shapes run as they are.

    Returns:
        None, or why it cannot be compiled here: then the update has not been made, and the network runs as it is.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    model.compile(dynamic=False)
    try:
        update()
    except TorchDynamoException as error:
        run_as_it_is(model)
        return str(error).splitlines()[0]
    torch.compiler.set_stance("eager_on_recompile")
    return None


def run_as_it_is(model: WorldModel) -> None:
    """Undo `compile_for`."""
    if is_compiled(model):
        model._compiled_call_impl = None
        torch.compiler.set_stance("default")
