"""mamba-ssm's Triton kernels behind the interface of `wm.model.ops.ssd`. Requires mamba-ssm (`make gpu`)."""

from __future__ import annotations

import functools
import importlib.util
import sys
import types

import torch
from torch import Tensor

from datasets.runtime.errors import UserError

CHUNK_FRAMES = 64


@functools.cache
def available() -> bool:
    """Whether mamba-ssm and what it needs are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("mamba_ssm", "triton", "einops"))


@functools.cache
def _chunk_scan():
    """`mamba_chunk_scan_combined`. mamba_ssm's __init__ imports a compiled CUDA extension that Mamba-2 does not need,
    so an empty package with the same path replaces it."""
    if not available():
        raise UserError(
            "model.scan_backend is triton, but mamba-ssm is not installed; run `make gpu`, or set scan_backend: torch"
        )
    if "mamba_ssm" not in sys.modules:
        spec = importlib.util.find_spec("mamba_ssm")
        assert spec is not None
        package = types.ModuleType("mamba_ssm")
        package.__spec__ = spec  # otherwise find_spec("mamba_ssm") raises from now on
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["mamba_ssm"] = package
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined


def forget_tuning() -> None:
    """Have the kernels be tuned again at their next launch: what is fastest depends on the size of the batch, which is
    not part of the key under which they remember it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mamba_ssm.ops.triton"):
            for kernel in vars(module).values():
                if type(kernel).__name__ == "Autotuner":
                    kernel.cache.clear()


@torch.compiler.disable  # Dynamo cannot trace the pre-hooks of the kernels' tuning
def scan(
    x_BTHD: Tensor,
    dt_BTH: Tensor,
    a_H: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BHDN: Tensor | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Same interface and result as `wm.model.ops.ssd.scan`.

    Raises:
        UserError: mamba-ssm is not installed.
    """
    result = _chunk_scan()(
        x_BTHD,
        dt_BTH,
        a_H,
        b_BTN[:, :, None],
        c_BTN[:, :, None],
        chunk_size=CHUNK_FRAMES,
        initial_states=state_BHDN,
        return_final_states=return_state,
    )
    return result if return_state else (result, None)
