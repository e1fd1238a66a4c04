"""State-space duality (SSD) scan of Mamba-2 in plain torch (Dao and Gu 2024, "Transformers are SSMs", listing 1).

Quadratic within a chunk, a recurrence over chunks. On a CPU one chunk is fastest up to about 64 frames, because the
projections around the scan dominate. Runs on any device; the reference for mamba-ssm's Triton kernels.

Shape legend: B = batch, T = frames, Q = frames of a chunk, K = chunks, H = heads, D = head width, N = state size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.ops.autograd_ops import DecayedScores
from wm.model.precision import without_autocast

CHUNK_FRAMES = 64
STEP_BLOCK_BYTES = 1 << 20
"""State that `step` updates at once: it stays in the cache of a core between the passes over it."""


def scan(
    x_BTHD: Tensor,
    dt_BTH: Tensor,
    a_H: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BHDN: Tensor | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """y_t = C_t h_t with h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t.

    Args:
        dt_BTH: step sizes, positive, float32.
        a_H: A of each head, negative, float32.
        state_BHDN: initial state h; None is zero.
    Returns:
        y (B, T, H, D), and the final state h (float32) if `return_state`.
    """
    num_frames = x_BTHD.shape[1]
    if num_frames <= CHUNK_FRAMES:
        return _chunk(x_BTHD, dt_BTH, a_H, b_BTN, c_BTN, state_BHDN, return_state)
    outputs = []
    for start in range(0, num_frames, CHUNK_FRAMES):
        part = slice(start, start + CHUNK_FRAMES)
        y, state_BHDN = _chunk(
            x_BTHD[:, part],
            dt_BTH[:, part],
            a_H,
            b_BTN[:, part],
            c_BTN[:, part],
            state_BHDN,
            return_state or part.stop < num_frames,
        )
        outputs.append(y)
    return torch.cat(outputs, dim=1), state_BHDN


def step(
    x_BHD: Tensor,
    dt_BH: Tensor,
    a_H: Tensor,
    b_BN: Tensor,
    c_BN: Tensor,
    state_BHDN: Tensor,
    *,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """`scan` of a single frame from a state.

    Most of the time of a large batch is the traffic of its states, which are read and written once here
    (`benchmarks/rollout.py`).

    Args:
        in_place: on a CPU without gradients overwrite the given state, whose memory need not be fetched twice then;
            otherwise it is not changed.
    Returns:
        y (B, H, D), and the final state (float32).
    """
    with without_autocast(x_BHD.device):  # the recurrent state stays float32
        decay_BH11 = (dt_BH * a_H).exp()[..., None, None]
        xdt_BHD1 = (x_BHD.float() * dt_BH[..., None])[..., None]
        b_B11N, c_B1N1 = b_BN.float()[:, None, None], c_BN.float()[:, None, :, None]
        if torch.compiler.is_compiling():  # one fused loop over the state
            updated = state_BHDN * decay_BH11 + xdt_BHD1 * b_B11N
            if in_place and state_BHDN.device.type == "cpu" and not torch.is_grad_enabled():
                updated = state_BHDN.copy_(updated)
            return (updated * c_BN.float()[:, None, None]).sum(-1).to(x_BHD.dtype), updated
        if torch.is_grad_enabled() or state_BHDN.device.type != "cpu":
            updated = state_BHDN * decay_BH11 + xdt_BHD1 * b_B11N
            return (updated @ c_B1N1)[..., 0].to(x_BHD.dtype), updated
        rows = max(1, STEP_BLOCK_BYTES // (4 * state_BHDN[0].numel()))
        updated_BHDN = state_BHDN if in_place else torch.empty_like(state_BHDN)
        y_BHD1 = torch.empty_like(xdt_BHD1)
        operands = (updated_BHDN, y_BHD1, state_BHDN, decay_BH11, xdt_BHD1, b_B11N, c_B1N1)
        for updated, y, state, decay, xdt, b, c in zip(*(values.split(rows) for values in operands), strict=True):
            torch.mul(state, decay, out=updated)
            updated.addcmul_(xdt, b)
            torch.matmul(updated, c, out=y)
        return y_BHD1[..., 0].to(x_BHD.dtype), updated_BHDN


def _chunk(
    x_BTHD: Tensor,
    dt_BTH: Tensor,
    a_H: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BHDN: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Output and final state of one chunk: intra-chunk attention plus the contribution of the initial state."""
    decay_BHT = (dt_BTH * a_H).transpose(1, 2).cumsum(-1)
    xdt_BHTD = (x_BTHD * dt_BTH.to(x_BTHD.dtype)[..., None]).transpose(1, 2)
    scores_BTT = c_BTN @ b_BTN.transpose(1, 2)
    y_BHTD = DecayedScores.apply(scores_BTT, decay_BHT).to(xdt_BHTD.dtype) @ xdt_BHTD
    if state_BHDN is None and not return_state:
        return y_BHTD.transpose(1, 2), None
    with without_autocast(x_BTHD.device):  # the recurrent state stays float32
        return _with_state(y_BHTD, xdt_BHTD, decay_BHT, b_BTN, c_BTN, state_BHDN, return_state)


def _with_state(
    y_BHTD: Tensor,
    xdt_BHTD: Tensor,
    decay_BHT: Tensor,
    b_BTN: Tensor,
    c_BTN: Tensor,
    state_BHDN: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Add the contribution of the initial state, and compute the final state."""
    if state_BHDN is not None:
        inter_chunk_BHTD = torch.einsum("btn,bhdn->bhtd", c_BTN.float(), state_BHDN.float())
        y_BHTD = y_BHTD + (inter_chunk_BHTD * decay_BHT.exp()[..., None]).to(y_BHTD.dtype)
    state = None
    if return_state:
        remaining_decay_BHT = (decay_BHT[..., -1:] - decay_BHT).exp()
        state = torch.einsum("bhtd,bht,btn->bhdn", xdt_BHTD.float(), remaining_decay_BHT, b_BTN.float())
        if state_BHDN is not None:
            state = state + state_BHDN * decay_BHT[..., -1].exp()[..., None, None]
    return y_BHTD.transpose(1, 2), state
