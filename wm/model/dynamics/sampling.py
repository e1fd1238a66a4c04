"""How a category is chosen from its logits: the most probable value, or a random one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wm.model.heads import BINARIES, CATEGORIES

SAMPLED_FIELDS = (*CATEGORIES, *(name for name in BINARIES if name != "invulnerable"), "flags")
"""Fields that can be sampled. Numbers are not: there is one predicted value, and the most probable candidate of
motion. `invulnerable` is a part of `hurtbox` (`wm.model.dynamics.consistency`)."""


SMALLEST_TEMPERATURE = 1e-6
"""Below it the most probable value is chosen, as it would be by chance; logits divided by less are not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Temperatures of the fields that are sampled."""

    temperatures: Mapping[str, float] = field(default_factory=dict)
    """Field -> temperature; 0, or no entry: the most probable value."""
    generator: torch.Generator | None = None
    """On the device of the logits; None: torch's own."""

    def __post_init__(self) -> None:
        for name, temperature in self.temperatures.items():
            if name not in SAMPLED_FIELDS:
                raise ValueError(f"{name} is not sampled; expected one of {', '.join(SAMPLED_FIELDS)}")
            if not temperature >= 0:
                raise ValueError(f"temperature {temperature} of {name}: expected 0 or more")

    def category(self, name: str, logits: Tensor) -> Tensor:
        """Choose a value: (..., values) -> int64 (...)."""
        temperature = self.temperatures.get(name, 0.0)
        if temperature < SMALLEST_TEMPERATURE:
            return logits.argmax(-1)
        return self._draw(name, (logits.float() / temperature).softmax(-1))

    def binary(self, name: str, logit: Tensor) -> Tensor:
        """Choose yes or no: (...) -> bool (...)."""
        temperature = self.temperatures.get(name, 0.0)
        if temperature < SMALLEST_TEMPERATURE:
            return logit > 0
        return self._uniform(name, logit) < (logit.float() / temperature).sigmoid()

    def _draw(self, name: str, probabilities: Tensor) -> Tensor:
        """Random values: (..., values) -> int64 (...). NaN is no error here: whoever dreams looks at the frames.

        The largest ratio of a probability to an exponential variable is at each value with its probability.
        """
        return (probabilities / torch.empty_like(probabilities).exponential_(generator=self.generator)).argmax(-1)

    def _uniform(self, name: str, like: Tensor) -> Tensor:
        """Random numbers in (0, 1) for each element: float32."""
        return torch.rand(like.shape, device=like.device, generator=self.generator)


MOST_PROBABLE = Sampling()
"""Every field takes its most probable value."""
