"""Options of training on inputs that are as wrong as those of a dream (`docs/rollout.md`). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Noise on the input frames: a random walk on positions and velocities, and confused categories."""

    share: Share = 0.0
    """Part of the examples that get noise, from a random frame on; 0: none."""
    scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Mean size of a step of the random walk, in mean errors of the model's own prediction of the same field."""
    walk_frames: PositiveInt = 10
    """Frames after which a step of the random walk is forgotten; with 1 the noise of each frame is its own."""
    confusion: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Probability that a category of a noisy input frame is replaced by one that the model confuses it with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoPassConfig:
    """Two passes over a batch: some input frames of the second are predictions of the first, which has no gradient."""

    share: Share = 0.0
    """Part of the updates that make two passes; 0: none."""
    replaced: Annotated[float, Field(gt=0, le=0.4)] = 0.2
    """Part of the input frames that are replaced."""
    longest_run: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames; runs of 1 to as many consecutive frames are replaced, with equal probability."""
    temperature: Temperature = 1.0
    """At which categories are sampled; 0 takes the most probable ones. Numbers are always the predicted ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnrollConfig:
    """The last input frames of a sequence are a dream that begins in it, from the carried state."""

    share: Share = 0.0
    """Part of the updates with a dream; 0: none."""
    frames: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 2, 3, 5, 8)
    """Imagined frames, from the beginning of the run on; each value for an equal part of `growth`."""
    growth: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Part of the run's targets after which the dreams do not grow any more."""
    temperature: Temperature = 0.0
    """At which categories are sampled; 0 takes the most probable ones, as when coherence is measured."""

    def __post_init__(self) -> None:
        if list(self.frames) != sorted(self.frames):
            raise ValueError(f"unroll.frames={list(self.frames)}: expected numbers that do not fall")


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Training on inputs that are as wrong as those of a dream; the targets stay true. All are off by default."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise on the inputs."""
    two_passes: TwoPassConfig = field(default_factory=TwoPassConfig)
    """Some input frames are replaced by predictions."""
    unroll: UnrollConfig = field(default_factory=UnrollConfig)
    """The last input frames are a dream."""

    def __post_init__(self) -> None:
        total = self.two_passes.share + self.unroll.share
        if total > 1:
            raise ValueError(
                f"two_passes.share={self.two_passes.share} and unroll.share={self.unroll.share}: an update does one of "
                "them, so expected a sum of at most 1"
            )

    @property
    def positive_shares(self) -> list[str]:
        """Dotted names of the shares above 0."""
        names = (name for name in ("noise", "two_passes", "unroll") if getattr(self, name).share > 0)
        return [f"objective.rollout.{name}.share" for name in names]

    @property
    def is_on(self) -> bool:
        """Whether any input changes."""
        return bool(self.positive_shares)
