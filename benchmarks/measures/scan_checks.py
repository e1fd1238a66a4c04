"""Checks of the scan on this device against a float64 recurrence, and what all checks of `gpu_correctness.py` share.

Shape legend: B = batch, T = frames, H = heads, D = head width, N = state size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datasets.loading.frames import GameIndex
from wm.model.ops import ssd, ssd_triton

SCAN_FRAMES = (10, 64, 100)
SCAN_TOLERANCES = {
    ("torch", "fp32"): 1e-4,
    ("triton", "fp32"): 5e-3,
    ("torch", "bf16"): 3e-2,
    ("triton", "bf16"): 3e-2,
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison; `problem` is set if it failed with an exception."""

    name: str
    error: float
    tolerance: float
    problem: str | None = None

    @property
    def is_right(self) -> bool:
        """Whether the error is within the tolerance; nan is not."""
        return self.problem is None and self.error <= self.tolerance

    def __str__(self) -> str:
        found = self.problem or f"{self.error:9.1e}  (at most {self.tolerance:.0e})"
        return f"{'right' if self.is_right else 'WRONG':<7}{self.name:<52}{found}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The inputs of all checks."""

    device: torch.device
    backends: tuple[str, ...]
    tiny: bool
    index: GameIndex


def max_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def norm_error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over the norm of the expected values."""
    found, expected = ([t.detach().double().cpu() for t in tensors] for tensors in (found, expected))
    difference = sum(float((f - e).square().sum()) for f, e in zip(found, expected, strict=True))
    return (difference / max(1e-300, sum(float(e.square().sum()) for e in expected))) ** 0.5


def recurrence(x_BTHD, dt_BTH, a_H, b_BTN, c_BTN, state_BHDN=None, return_state=True):
    """The definition of the scan, frame by frame (Dao and Gu 2024, equation 1); checks `wm.model.ops.ssd.scan`."""
    num_games, num_frames, num_heads, width = x_BTHD.shape
    state = x_BTHD.new_zeros(num_games, num_heads, width, b_BTN.shape[-1]) if state_BHDN is None else state_BHDN
    outputs = []
    for t in range(num_frames):
        decay = (dt_BTH[:, t] * a_H).exp()[..., None, None]
        state = decay * state + torch.einsum("bhd,bh,bn->bhdn", x_BTHD[:, t], dt_BTH[:, t], b_BTN[:, t])
        outputs.append(torch.einsum("bhdn,bn->bhd", state, c_BTN[:, t]))
    return torch.stack(outputs, dim=1), state


def scan_inputs(num_frames: int, with_state: bool, dtype: torch.dtype, tiny: bool) -> list[Tensor]:
    """x, dt, A, B, C and the initial state on the CPU: float64, representable in `dtype` (x, B, C)."""
    random = torch.Generator().manual_seed(num_frames)
    heads, width, states = (2, 16, 16) if tiny else (6, 64, 64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    x, b, c = normal(2, num_frames, heads, width), normal(2, num_frames, states), normal(2, num_frames, states)
    inputs = [x.to(dtype), F.softplus(normal(2, num_frames, heads) - 2), -normal(heads).exp(), b.to(dtype), c.to(dtype)]
    return [tensor.double() for tensor in (*inputs, *([normal(2, heads, width, states)] if with_state else []))]


def scanned(scan: Callable, inputs: list[Tensor], weights: tuple[Tensor, Tensor]) -> list[Tensor]:
    """y, the final state, and the gradients of all inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y, state = scan(*leaves, return_state=True)
    ((y.double() * weights[0].to(y.device)).sum() + (state.double() * weights[1].to(y.device)).sum()).backward()
    return [y, state, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def check_scans(scene: Scene) -> Iterator[Check]:
    """The scan of each backend against the recurrence."""
    for num_frames, with_state, precision in itertools.product(SCAN_FRAMES, (False, True), DTYPES):
        dtype = DTYPES[precision]
        inputs = scan_inputs(num_frames, with_state, dtype, scene.tiny)
        random = torch.Generator().manual_seed(1)
        x, b = inputs[0], inputs[3]
        state_shape = x.shape[0], x.shape[2], x.shape[3], b.shape[-1]
        weights = torch.randn(x.shape, generator=random).double(), torch.randn(state_shape, generator=random).double()
        expected = scanned(recurrence, inputs, weights)
        types = [dtype, torch.float32, torch.float32, dtype, dtype, torch.float32]
        cast = [t.to(scene.device, kind) for t, kind in zip(inputs, types, strict=False)]
        for backend in scene.backends:
            if backend == "triton" and not ssd_triton.available():
                continue
            found = scanned(ssd_triton.scan if backend == "triton" else ssd.scan, cast, weights)
            yield Check(
                name=f"scan, {backend}, {precision}, {num_frames} frames{' with a state' if with_state else ''}",
                error=max(max_error(f, e) for f, e in zip(found, expected, strict=True)),
                tolerance=SCAN_TOLERANCES[backend, precision],
            )
