"""torch.compile, which fuses the element-wise work between a network's matrix products.

Not the default: on two CPU cores a compiled step is 1.15 times as fast, but half a minute goes into compiling it (ten
seconds where it was compiled before); on CUDA nobody has measured it.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch

from wm.config import RunConfig
from wm.model import Mamba2WorldModel, WorldModel


def compile_model(model: WorldModel, config: RunConfig) -> None:
    """Compile a network in place, if the config says so."""
    if config.compile and isinstance(model, Mamba2WorldModel):
        model.compile(dynamic=False)


def uncompiled(config: RunConfig) -> AbstractContextManager[Any]:
    """For what runs few batches of a shape: each shape would be compiled by itself, half a minute each."""
    return torch.compiler.set_stance("force_eager") if config.compile else contextlib.nullcontext()
