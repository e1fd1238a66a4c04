"""torch.compile, which fuses the element-wise work between a network's matrix products.

On two CPU cores a compiled step is 1.15 times as fast, and half a minute goes into compiling it (ten seconds where it
was compiled before); on CUDA nobody has measured it. Only batches of full size are compiled: the last one of an epoch
and those of the judge are too few to be worth half a minute for each shape.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import TorchDynamoException as CannotCompileError

from wm.config import RunConfig
from wm.model import Mamba2WorldModel, WorldModel

__all__ = ["CannotCompileError", "compiled", "is_to_be_compiled", "run_as_it_is"]


def is_to_be_compiled(model: WorldModel, config: RunConfig, device: torch.device) -> bool:
    """Whether a run's network is to be compiled; `cpu` also asks for a C++ compiler to be there."""
    if not isinstance(model, Mamba2WorldModel) or config.compile == "never":
        return False
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    return config.compile == "always" or (device.type == "cpu" and has_compiler is not None)


@contextmanager
def compiled(model: WorldModel) -> Iterator[None]:
    """Compile a network for the batch that it sees in the block; from then on other shapes run as they are.

    Raises:
        CannotCompileError: within the block.
    """
    model.compile(dynamic=False)
    yield
    torch.compiler.set_stance("eager_on_recompile")


def run_as_it_is(model: WorldModel) -> None:
    """Undo `compiled`."""
    model._compiled_call_impl = None
    torch.compiler.set_stance("default")
