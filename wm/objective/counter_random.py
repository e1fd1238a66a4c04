"""Random numbers that are a function of what they are for: of the run's seed, the update, the example, the frame.

An example gets the same ones on any number of workers, in micro-batches of any size and after a resume, on any device,
and nothing keeps a generator's state. The function is the finalizer of SplitMix64 (Steele et al. 2014, "Fast splittable
pseudorandom number generators"), applied once for each index.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WEYL = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 23
"""Of a random number in (0, 1): with the half that is added, as many as float32 has."""


def key_of(*parts: int | str) -> int:
    """A key of 64 bits, as a signed integer."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def chance(*parts: int | str) -> float:
    """One random number in [0, 1), on the host: the same on every worker."""
    return (key_of(*parts) % (1 << 53)) / (1 << 53)


def uniform(key: int, indices: Sequence[Tensor]) -> Tensor:
    """Random numbers in (0, 1), one for each tuple of indices.

    Args:
        indices: int64, of shapes that can be broadcast; at least one.
    Returns:
        float32, of their common shape.
    """
    state: Tensor | None = None
    for index in indices:
        state = _mixed((key if state is None else state) + (index + 1) * _signed(_WEYL))
    assert state is not None
    return (_shifted(state, 64 - _BITS).float() + 0.5) / (1 << _BITS)


def normal(key: int, indices: Sequence[Tensor]) -> Tensor:
    """Normal random numbers, mean 0 and variance 1, by Box and Muller; as `uniform`."""
    one = torch.zeros_like(indices[0])
    radius = (-2 * uniform(key, [*indices, one]).log()).sqrt()
    return radius * (2 * math.pi * uniform(key, [*indices, one + 1])).cos()


def _mixed(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * _signed(_FIRST)
    value = (value ^ _shifted(value, 27)) * _signed(_SECOND)
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shifted to the right, with zeros from the left."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The signed integer with the same 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value
