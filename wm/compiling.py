"""torch.compile, which fuses the element-wise work between a block's matrix products.

Not the default: on two CPU cores a compiled step is 1.2 times as fast, but half a minute goes into each shape of
batch, also of the judge's; on CUDA nobody has measured it.
"""

from __future__ import annotations

from wm.config import RunConfig
from wm.model import Mamba2WorldModel, WorldModel


def compile_blocks(model: WorldModel, config: RunConfig) -> None:
    """Compile the blocks of a network in place, if the config says so."""
    if config.compile and isinstance(model, Mamba2WorldModel):
        model.backbone.compile(dynamic=False)
