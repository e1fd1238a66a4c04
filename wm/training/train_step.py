"""One update of the weights, without anything that makes the host wait for the device.

The results of updates (loss, accuracy, whether a gradient is finite) stay on the device until `synchronize`.
Shape legend: B = batch, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wm.config.run_config import RunConfig
from wm.data.augment import augment
from wm.data.batches import LocalBatch
from wm.model.encoding import Frames, category
from wm.model.heads import Prediction
from wm.model.precision import autocast
from wm.model.world_model import WorldModel
from wm.objective.losses import training_loss_factors, training_loss_parts, weighted_sum
from wm.objective.rollout_inputs import RolloutInputs
from wm.training import distributed
from wm.training.compilation import GraphedUpdate
from wm.training.optimizer import Optimizer

NUM_SUMS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdatePlace:
    """Where a share of a batch lies in the run: what the random numbers of its inputs are made of."""

    number: int
    """Of the update in the run."""
    num_examples: int
    """Of the global batch."""
    first: int
    """Index of the share's first example in the global batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStats:
    """The updates since the last synchronization, over all ranks."""

    num_steps: int
    loss: float
    """Mean over the updates."""
    num_skipped: int
    """Updates with a non-finite gradient: they changed neither weights nor moments."""
    action_acc: float
    change_acc: float
    rank_requests: dict[str, bool]
    """Whether any rank made each request."""


class TrainStep:
    """Forward, backward and update over every rank's share of a batch."""

    def __init__(
        self,
        model: WorldModel,
        optimizer: Optimizer,
        config: RunConfig,
        device: torch.device,
        on_problem: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            on_problem: receives one line if `cuda_graph` is set and the update cannot be captured.
        """
        self.model, self.optimizer, self.config, self.device = model, optimizer, config, device
        self._replicated: nn.Module = distributed.replicate(model, device)
        self._graphed: GraphedUpdate | None = None
        if config.cuda_graph and device.type == "cuda":
            self._graphed = GraphedUpdate(self._update, on_problem or (lambda _line: None))
        self.rollout = RolloutInputs(config, device) if config.objective.rollout.is_on else None
        """Makes the inputs of each update; None: they are the true frames."""
        self._sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)
        self._num_steps = 0
        self._is_alone = False

    def __call__(self, share: LocalBatch, learning_rate: float, number: int) -> None:
        """
        Args:
            number: of the update in the run; seeds its augmentation.
        Raises:
            NonFiniteGradientError: where the host knows the gradient's norm; weights and moments are as before.
        """
        frames = augment(share, self.config.objective, (self.config.seed, number))
        self.optimizer.set_learning_rate(learning_rate)
        tensors = frames.floats, frames.codes, frames.game, share.game
        if self.rollout is None:
            (self._graphed or self._update)(*tensors)
        else:
            self._update(*tensors, UpdatePlace(number=number, num_examples=share.num_examples, first=share.first))
        self._num_steps += 1

    def _update(
        self, floats: Tensor, codes: Tensor, game: Tensor, global_game: Tensor, place: UpdatePlace | None = None
    ) -> None:
        """Accumulate gradients over micro-batches, and update; on the device alone, so that it can be captured."""
        config, frames = self.config, Frames(floats=floats, codes=codes, game=game)
        factors = training_loss_factors(global_game, config.objective.predictions)
        size = floats.shape[0]
        micro_batch = min(size, config.micro_batch_size or size)
        # Gradients of all but the last micro-batch are not exchanged.
        no_sync = getattr(self._replicated, "no_sync", contextlib.nullcontext)
        self.optimizer.zero_grad()
        for start in range(0, size, micro_batch):
            is_last = start + micro_batch >= size
            with contextlib.nullcontext() if is_last else no_sync():
                self._accumulate(frames.examples(start, start + micro_batch), factors, _moved(place, start))
        # The gradient, hence its norm, is the same on every rank, so every rank decides the same.
        is_finite = torch.isfinite(self.optimizer.clip_and_step())
        self._sums[1] += ~is_finite
        if self.optimizer.waits_for_norm and not bool(is_finite):
            raise NonFiniteGradientError
        if self.rollout is not None and self.rollout.errors is not None and not self._is_alone:
            distributed.all_reduce_sum(self.rollout.errors.sums)
            self.rollout.errors.update()

    @property
    def is_captured(self) -> bool:
        """Whether updates are replayed as a CUDA graph."""
        return self._graphed is not None and self._graphed.is_captured

    def synchronize(self, rank_requests: Mapping[str, bool]) -> StepStats:
        """Wait for the device and combine results and requests of all ranks; every rank must call.

        Args:
            rank_requests: of this rank; the same names on every rank.
        """
        mine = torch.tensor([float(request) for request in rank_requests.values()], dtype=torch.float64)
        pooled = distributed.all_reduce_sum(torch.cat([self._sums, mine.to(self.device)])).tolist()
        steps, ranks = max(1, self._num_steps), distributed.world_size()
        loss, skipped, right, pairs, right_changed, changed = pooled[:NUM_SUMS]
        stats = StepStats(
            num_steps=self._num_steps,
            loss=loss / steps,
            num_skipped=round(skipped / ranks),
            action_acc=right / max(1.0, pairs),
            change_acc=right_changed / max(1.0, changed),
            rank_requests={name: count > 0 for name, count in zip(rank_requests, pooled[NUM_SUMS:], strict=True)},
        )
        self.discard_stats()
        return stats

    def discard_stats(self) -> None:
        """Forget the results of updates that were not synchronized."""
        self._sums.zero_()
        self._num_steps = 0

    @contextmanager
    def bypass_ddp(self) -> Iterator[None]:
        """Updates on this rank alone: DistributedDataParallel would wait for the other ranks' gradients. They are not
        captured as a CUDA graph either, since their shapes may differ from those of the run, and what is estimated
        from their errors is forgotten."""
        replicated, graphed = self._replicated, self._graphed
        self._replicated, self._graphed, self._is_alone = self.model, None, True
        try:
            yield
        finally:
            self._replicated, self._graphed, self._is_alone = replicated, graphed, False
            if self.rollout is not None and self.rollout.errors is not None:
                self.rollout.errors.sums.zero_()

    def _accumulate(self, frames: Frames, factors: Tensor, place: UpdatePlace | None) -> None:
        """Forward and backward over some examples."""
        truth, inputs = frames, None
        if self.rollout is not None:
            assert place is not None
            inputs = self.rollout(self.model, truth, place.number, place.num_examples, place.first)
            frames = inputs.frames
        last = frames.num_frames - 1
        last_only = self.config.objective.kind == "window"
        with autocast(self.device, self.config.precision):
            prediction = self._replicated(frames, last_only=last_only)
        first = last - self.config.objective.predictions
        # Differences are measured from the frames that were seen, so that a step from a wrong one leads to the truth.
        before, after = frames.slice(first, last), truth.slice(first + 1, last + 1)
        parts = training_loss_parts(prediction, before, after, None if inputs is None else inputs.true_modes)
        loss = weighted_sum(factors, parts)
        # DDP averages gradients over ranks, and the factors already count all ranks' entries.
        (loss * distributed.world_size()).backward()
        self._sums[0] += loss.detach()
        self._sums[2:6] += _counts_of_actions(prediction, truth.slice(first, last), after)
        if self.rollout is not None and inputs is not None:
            self.rollout.observe(prediction, truth, inputs)


def _moved(place: UpdatePlace | None, examples: int) -> UpdatePlace | None:
    """The place of a micro-batch that begins some examples later."""
    return None if place is None else replace(place, first=place.first + examples)


class NonFiniteGradientError(RuntimeError):
    """The gradient is not finite; raised on every rank, and nothing was updated."""


def _counts_of_actions(prediction: Prediction, before: Frames, after: Frames) -> Tensor:
    """Right, all, right and changed, changed: float64 (4,), over (frame, player) pairs."""
    truth = category(after, "action")
    right = prediction.categories["action"].detach().argmax(-1) == truth
    changed = truth != category(before, "action")
    return torch.stack(
        [right.sum(), torch.full_like(right.sum(), right.numel()), (right & changed).sum(), changed.sum()]
    )
