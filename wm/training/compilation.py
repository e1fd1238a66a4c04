"""torch.compile, which fuses the element-wise operations between a network's matrix products.

On two CPU cores a compiled step is 1.15 times as fast, and compiling takes most of a minute (ten seconds from the
cache); on CUDA it has not been measured. Only full-size batches are compiled: the last batch of an epoch and those of
the evaluation are too few to be worth a minute per shape.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import torch

from wm.config.run_config import RunConfig
from wm.model.world_model import Mamba2WorldModel, WorldModel, num_parameters
from wm.training import distributed

MIN_FLOPS = 7e13
"""Of a worker's whole schedule, at 6 per parameter and pass over a frame, for `auto`: about eight minutes of two CPU
cores."""


def should_compile(model: WorldModel, config: RunConfig, device: torch.device) -> bool:
    """Whether to compile a run's network; `auto`: on a CPU with a C++ compiler, if the schedule is long enough."""
    if not isinstance(model, Mamba2WorldModel) or config.compile == "never":
        return False
    num_passes = config.model.passes_per_frame * config.optimizer.total_targets / distributed.world_size()
    flops = 6 * num_parameters(model) * num_passes
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    pays = device.type == "cpu" and has_compiler is not None and flops >= MIN_FLOPS
    return config.compile == "always" or pays


def is_compiled(model: WorldModel) -> bool:
    """Whether batches of the shape that `compile_during` compiled for run compiled."""
    return model._compiled_call_impl is not None


def compile_during(model: WorldModel, update: Callable[[], None]) -> str | None:
    """Make an update with the network compiled for its batch; other shapes run in eager mode from then on.

    Returns:
        None, or why compilation failed: then the update has not been made, and the network runs in eager mode.
    """
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    model.compile(dynamic=False)
    try:
        update()
    except TorchDynamoException as error:
        restore_eager(model)
        return str(error).splitlines()[0]
    torch.compiler.set_stance("eager_on_recompile")
    return None


def restore_eager(model: WorldModel) -> None:
    """Undo `compile_during`."""
    if is_compiled(model):
        model._compiled_call_impl = None
        torch.compiler.set_stance("default")
