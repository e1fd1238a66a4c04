"""Input frames that the model made itself, by the rules by which a dream feeds them back.

Two passes: short runs of frames anywhere in a sequence are made of the predictions of a first pass over it. Unroll: the
last frames of a sequence are a dream that begins in it. Neither keeps gradients: the pass that is trained on these
inputs, with the true frames as targets, is an ordinary one, and costs what it always does.

Shape legend: B = batch, T = frames, P = players (2), C = columns, R = runs of replaced frames in a sequence.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from wm.config.rollout_config import TwoPassConfig
from wm.model.dynamics.clocks import clock_of_each
from wm.model.dynamics.imagination import Imagination, concatenate, controller_columns
from wm.model.dynamics.next_frame import ActionClock, GameRules
from wm.model.dynamics.sampling import SAMPLED_FIELDS, Sampling
from wm.model.encoding import Frames, controllers
from wm.model.world_model import Mamba2WorldModel
from wm.objective.counter_random import key_of, uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingByExample(Sampling):
    """Samples an example's categories with its own random numbers: the same on any worker."""

    key: int
    examples: Tensor
    """int64 (B,), number of each example in the global batch."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each field was sampled."""

    def _draw(self, name: str, probabilities: Tensor) -> Tensor:
        cumulative = probabilities.cumsum(-1)
        drawn = self._uniform(name, probabilities[..., 0]) * cumulative[..., -1]
        return (cumulative <= drawn[..., None]).sum(-1).clamp(max=probabilities.shape[-1] - 1)

    def _uniform(self, name: str, like: Tensor) -> Tensor:
        number = self.calls[name]
        self.calls[name] += 1
        axes = [self.examples, *(torch.arange(size, device=like.device) for size in like.shape[1:])]
        axes = [axis.view(-1, *[1] * (like.ndim - 1 - at)) for at, axis in enumerate(axes)]
        return uniform(key_of(self.key, name, number), axes)


def sampling_of(temperature: float, key: int, example_B: Tensor) -> Sampling:
    """All categories at one temperature.

    Args:
        key: of the random numbers of this update.
    """
    temperatures = dict.fromkeys(SAMPLED_FIELDS, temperature)
    return SamplingByExample(temperatures=temperatures, key=key, examples=example_B)


def num_runs(config: TwoPassConfig, num_inputs: int) -> int:
    """Runs of replaced frames in a sequence. Between two of them lies at least one true frame."""
    wanted = round(config.replaced * num_inputs / ((1 + config.longest_run) / 2))
    return max(1, min(wanted, (num_inputs - 1) // (config.longest_run + 1)))


def two_passes(
    model: Mamba2WorldModel, rules: GameRules, frames: Frames, config: TwoPassConfig, key: int, example_B: Tensor
) -> tuple[Frames, Tensor]:
    """Some input frames replaced by what the model predicts.

    The first frame of a run is predicted from true frames alone. The differences of the later ones, predicted from true
    frames too, are added to the frame before: errors add up as in a dream.

    Args:
        frames: T input frames, and the last target, which stays as it is.
        key: of the random numbers of this update.
        example_B: int64, number of each example in the global batch.
    Returns:
        The frames, and the first replaced one of each example: int64 (B,).
    """
    num_inputs = frames.num_frames - 1
    context = frames.slice(0, num_inputs)
    prediction, _ = model.observe(context, controllers(frames.slice(1, num_inputs + 1)))
    runs = num_runs(config, num_inputs)
    spare = num_inputs - 1 - runs * (config.longest_run + 1)
    run = torch.arange(runs, device=example_B.device)
    indices = [example_B[:, None], run]
    offset = (uniform(key_of(key, "begin"), indices) * (spare + 1)).long().sort(dim=-1).values
    begin_BR = 1 + run * (config.longest_run + 1) + offset
    length_BR = 1 + (uniform(key_of(key, "length"), indices) * config.longest_run).long()
    clocks = clock_of_each(context, rules.get_buffer("ages"), keeps_speed=model.fields.animation)
    last = _frames_at(context, begin_BR - 1)
    clock = ActionClock(speed=_at(clocks.speed, begin_BR - 1), frames=_at(clocks.frames, begin_BR - 1))
    floats, codes = frames.floats.clone(), frames.codes.clone()
    for step in range(config.longest_run):
        place_BR = begin_BR + step
        truth = _frames_at(frames, place_BR)
        predicted = prediction.map(partial(_at, place_BR=place_BR - 1))
        last, clock = rules(last, clock, predicted, controller_columns(truth))
        is_replaced = (step < length_BR)[..., None, None]
        for target, imagined, true in ((floats, last.floats, truth.floats), (codes, last.codes, truth.codes)):
            index = place_BR[..., None, None].expand_as(true)
            target.scatter_(1, index, torch.where(is_replaced, imagined, true))
    return replace(frames, floats=floats, codes=codes), begin_BR[:, 0]


def unrolled(
    model: Mamba2WorldModel, rules: GameRules, frames: Frames, num_imagined: int, example_B: Tensor
) -> tuple[Frames, Tensor]:
    """The last input frames replaced by a dream, whose state is carried from the frames before.

    Args:
        frames: T input frames, and the last target, which stays as it is.
    Returns:
        The frames, and the first imagined one of each example: int64 (B,).
    """
    num_inputs = frames.num_frames - 1
    first = num_inputs - num_imagined
    imagination = Imagination(model, rules)
    observed = frames.slice(0, first)
    following = controller_columns(frames.slice(first, num_inputs))
    imagined, _ = imagination.imagine(imagination.observe(None, observed), following)
    last_target = frames.slice(num_inputs, num_inputs + 1)
    return concatenate([observed, imagined, last_target]), torch.full_like(example_B, first)


def _at(values: Tensor, place_BR: Tensor) -> Tensor:
    """(B, T, ...) -> (B, R, ...): the values of some frames."""
    index = place_BR[(...,) + (None,) * (values.ndim - 2)]
    return values.gather(1, index.expand(*place_BR.shape, *values.shape[2:]))


def _frames_at(frames: Frames, place_BR: Tensor) -> Frames:
    return replace(frames, floats=_at(frames.floats, place_BR), codes=_at(frames.codes, place_BR))
