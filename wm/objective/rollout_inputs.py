"""The inputs of an update that trains against drift (`objective.rollout`): which recipe, for which update.

All random numbers follow from the run's seed, the number of the update, and an example's number in the global batch: a
resumed run repeats them, and so does one on more workers.
Shape legend: B = batch, T = frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wm.config.rollout_config import UnrollConfig
from wm.config.run_config import RunConfig
from wm.model.dynamics.next_frame import GameRules
from wm.model.encoding import Frames
from wm.model.heads import Prediction
from wm.model.motion.choice import modes_of
from wm.model.precision import autocast
from wm.model.world_model import Mamba2WorldModel, WorldModel
from wm.objective.counter_random import chance, key_of
from wm.objective.fed_back_inputs import sampling_of, two_passes, unrolled
from wm.objective.input_noise import add_noise
from wm.objective.own_errors import OwnErrors


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What an update sees instead of the true frames."""

    frames: Frames
    """T input frames, and the last target as it was."""
    first_changed: Tensor
    """int64 (B,), the first input frame that is not true; T if all are."""
    true_modes: Tensor | None = None
    """bool (B, T, P, N, M), the rules that the true motion follows: those that it should follow from other frames,
    too. From a position that is wrong by a hundredth no rule leads to the true one. None without candidates."""

    @property
    def is_clean(self) -> Tensor:
        """Whether an input frame and all before it are true: bool (B, T)."""
        frame = torch.arange(self.frames.num_frames - 1, device=self.first_changed.device)
        return frame < self.first_changed[:, None]


class RolloutInputs:
    """Makes the inputs of each update.

    Attributes:
        errors: running estimates, which belong to a run's state; None without noise.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._rollout = config.objective.rollout
        self._rules = GameRules().to(device)
        self.errors = OwnErrors(device) if self._rollout.noise.share > 0 else None

    @torch.no_grad()
    def __call__(self, model: WorldModel, frames: Frames, number: int, num_examples: int, first: int) -> Inputs:
        """
        Args:
            model: with the current weights, without DistributedDataParallel.
            frames: true ones of some examples, T inputs and the last target.
            number: of the update in the run.
            num_examples: of the global batch.
            first: index of the first example in the global batch.
        """
        assert isinstance(model, Mamba2WorldModel)
        rollout, seed = self._rollout, self._config.seed
        true_modes = None if model.physics is None else modes_of(model.physics, frames)
        example_B = torch.arange(first, first + len(frames.game), device=self._device)
        changed = torch.full_like(example_B, frames.num_frames - 1)
        if self.errors is not None:
            frames, changed = add_noise(frames, rollout.noise, self.errors, key_of(seed, number, "noise"), example_B)
        draw, key = chance(seed, number, "recipe"), key_of(seed, number, "feed back")
        # The compiled forward pass is for the update alone: which of its variants are compiled must not depend on the
        # update with which a command begins.
        with autocast(self._device, self._config.precision):
            if draw < rollout.unroll.share:
                self._rules.sampling = sampling_of(rollout.unroll.temperature, key, example_B)
                targets_seen = number * num_examples * self._config.objective.predictions
                length = unroll_frames(rollout.unroll, targets_seen / self._config.optimizer.total_targets)
                frames, begin = unrolled(model, self._rules, frames, length, example_B)
                changed = torch.minimum(changed, begin)
            elif draw < rollout.unroll.share + rollout.two_passes.share:
                self._rules.sampling = sampling_of(rollout.two_passes.temperature, key, example_B)
                frames, begin = two_passes(model, self._rules, frames, rollout.two_passes, key, example_B)
                changed = torch.minimum(changed, begin)
        return Inputs(frames=frames, first_changed=changed, true_modes=true_modes)

    def observe(self, prediction: Prediction, truth: Frames, inputs: Inputs) -> None:
        """Take an update's predictions into the sums of the running estimates.

        Args:
            truth: T + 1 true frames.
        """
        if self.errors is not None:
            last = truth.num_frames - 1
            before, after = truth.slice(0, last), truth.slice(1, last + 1)
            self.errors.observe(prediction, before, after, inputs.is_clean)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; empty if there is nothing to keep."""
        return {} if self.errors is None else self.errors.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore from a checkpoint."""
        if self.errors is not None and state:
            self.errors.load_state_dict(state)


def unroll_frames(config: UnrollConfig, progress: float) -> int:
    """Imagined frames of a dream.

    Args:
        progress: part of the run's targets that were seen, from 0 on.
    """
    stage = int(progress / config.growth * len(config.frames))
    return config.frames[min(stage, len(config.frames) - 1)]
