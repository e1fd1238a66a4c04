"""The shape of a network as plain data; `wm.model.world_model.build_model` builds it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveInt

ScanBackend = Literal["auto", "torch", "triton"]
Encoding = Literal[2, 3, 4]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
"""Encodings that this version can train and read; 1 was never released."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldsConfig:
    """Fields that encoding 4 adds: seen, predicted, and fed back in dreams."""

    hitstun: bool = True
    """Frames until a player who was hit may act."""
    flags: Literal["none", "known", "known_and_hit", "all"] = "known"
    """State flags; hit: also whether somebody has hit the player lately."""
    animation: bool = True
    """How far the animation of an action advances, and whether it begins again: predicted only; the age is seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of the network."""

    kind: Literal["mamba2", "mlp"] = "mamba2"
    """mamba2 is a recurrent model over frames; mlp reads the last context_frames frames, concatenated."""
    encoding: Encoding = 4
    """Version of the features. 4: as 3, plus `fields`; its dreams drift less. 3: the same weights predict each player
    from its own point of view, in two passes over each frame, with controller events and stage geometry as features.
    2: one pass predicts both (version 0.1)."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    """Fields that encoding 4 adds."""
    physics: bool = True
    """Choose the next velocities and positions among candidates of the game's physics (`wm.model.motion`); from
    encoding 3 on."""
    d_model: PositiveInt = 256
    """Width of the residual stream (mamba2)."""
    num_layers: PositiveInt = 4
    """Blocks (mamba2)."""
    d_state: PositiveInt = 64
    """State size N of a head (mamba2)."""
    headdim: PositiveInt = 64
    """Width of a head (mamba2)."""
    expand: PositiveInt = 2
    """Inner width over d_model (mamba2)."""
    d_conv: Annotated[int, Field(ge=2)] = 4
    """Kernel size of the causal convolution, in frames (mamba2)."""
    hidden_sizes: tuple[PositiveInt, ...] = (512, 256)
    """Widths of the hidden layers (mlp)."""
    scan_backend: ScanBackend = "auto"
    """State-space scan: torch runs anywhere, triton is Triton kernels (CUDA). auto takes triton on a GPU if the kernels
    pass a comparison with torch before training starts, and says why if they do not; triton is an error then."""

    @property
    def chooses_motion(self) -> bool:
        """Whether `physics` applies."""
        return self.physics and self.encoding >= 3

    @property
    def passes_per_frame(self) -> int:
        """How often the weights are applied to each frame."""
        return 2 if self.encoding >= 3 else 1

    def __post_init__(self) -> None:
        if self.kind == "mamba2" and (self.expand * self.d_model) % self.headdim:
            raise ValueError(f"headdim={self.headdim} does not divide expand * d_model = {self.expand * self.d_model}")
        if self.kind == "mlp" and not self.hidden_sizes:
            raise ValueError("hidden_sizes=(): an MLP needs at least one hidden layer")
