"""torch.compile where it pays: it fuses the element-wise work between a block's matrix products."""

from __future__ import annotations

import shutil

import torch

from wm.config import RunConfig
from wm.model import Mamba2WorldModel, WorldModel

LONG_RUN_TARGETS = 3_000_000
"""Compiling takes half a minute on two CPU cores; from here on the faster steps earn it back."""


def compile_if_it_pays(model: WorldModel, config: RunConfig, device: torch.device) -> None:
    """Compile the blocks of a network in place, as the config says."""
    if isinstance(model, Mamba2WorldModel) and compiles(config, device):
        model.backbone.compile(dynamic=False)


def compiles(config: RunConfig, device: torch.device) -> bool:
    """Whether a run compiles its network."""
    if config.compile != "auto":
        return config.compile == "on"
    return device.type == "cpu" and config.optimiser.total_targets >= LONG_RUN_TARGETS and has_compiler()


def has_compiler() -> bool:
    """Whether this machine has the C++ compiler that torch.compile needs for a CPU."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))
