"""The learning rate over a run (linear warm-up, then cosine decay, over targets seen), and its rule for other batches.

A larger batch has less noise in its gradient and makes fewer updates. If the config names the batch size that its
options were chosen for (`optimizer.reference_batch_size`), they are scaled with the ratio of the batch to it by the
square-root rule for Adam of Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms"
(arXiv 2205.10287): the learning rate by its square root, 1 - beta by the ratio itself, so that moments remember as many
targets as before. Beyond the limits below the rate stays as it is, and so do the betas; Muon's rate is matched to
AdamW's, its momentum is not scaled. The warm-up has a fixed length in targets; only if a larger batch leaves fewer than
MIN_WARMUP_UPDATES it is lengthened to them, at most to MAX_WARMUP_FRACTION of the run. `docs/performance.md` has what
this gains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from wm.config.run_config import RunConfig

MAX_RATE_FACTOR = 4.0
"""Largest factor of the learning rate, reached at 16 times the reference batch: beyond it the rule is untested here."""
MIN_BETA1, MIN_BETA2 = 0.5, 0.9
"""Smallest betas that scaling leads to."""
MIN_WARMUP_UPDATES = 20
"""2 / (1 - MIN_BETA2), after Ma & Yarats 2019, "On the adequacy of untuned warmup for adaptive optimization" (arXiv
1910.04209)."""
MAX_WARMUP_FRACTION = 0.1
"""Largest part of a run to which its warm-up is lengthened."""
MIN_UPDATES = 1_000
"""Of a whole run, for `batch_size: auto`: larger batches would leave too few."""
MIN_UPDATES_PER_EPOCH = 64
MAX_AUTO_BATCH = 4_096
"""Most examples in a batch over all workers for `batch_size: auto`: larger ones learn no faster from a game."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The learning rate of each update of a run. A checkpoint keeps it, so a resumed run does too."""

    peak: float
    """Highest learning rate."""
    warmup_targets: int
    total_targets: int
    min_lr_ratio: float
    """Final learning rate over the peak."""
    update_targets: int
    """Targets of one update."""
    beta1: float
    beta2: float

    def learning_rate(self, targets_seen: int) -> float:
        """Of the update after `targets_seen` targets."""
        warmup = min(1.0, (targets_seen + self.update_targets) / max(1, self.warmup_targets))
        progress = min(1.0, targets_seen / self.total_targets)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.peak * warmup * (self.min_lr_ratio + (1 - self.min_lr_ratio) * cosine)


def schedule_for(config: RunConfig, batch_size: int) -> Schedule:
    """The schedule of a new run.

    Args:
        batch_size: examples over all workers.
    """
    optimizer = config.optimizer
    peak, warmup_targets = optimizer.learning_rate, optimizer.warmup_targets
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    update_targets = batch_size * config.objective.predictions
    if optimizer.reference_batch_size is not None:
        ratio = batch_size / optimizer.reference_batch_size
        peak *= min(MAX_RATE_FACTOR, math.sqrt(ratio))
        beta1 = max(min(beta1, MIN_BETA1), 1 - ratio * (1 - beta1))
        beta2 = max(min(beta2, MIN_BETA2), 1 - ratio * (1 - beta2))
        updates = min(MIN_WARMUP_UPDATES, warmup_targets * ratio / update_targets)  # no more than with the reference
        lengthened = min(updates * update_targets, MAX_WARMUP_FRACTION * optimizer.total_targets)
        warmup_targets = max(warmup_targets, int(lengthened))
    return Schedule(
        peak=peak, warmup_targets=warmup_targets, total_targets=optimizer.total_targets,
        min_lr_ratio=optimizer.min_lr_ratio, update_targets=update_targets, beta1=beta1, beta2=beta2,
    )  # fmt: skip


def largest_useful_batch(config: RunConfig, num_frames: int) -> int:
    """Most examples in a batch, over all workers, for `batch_size: auto`.

    Args:
        num_frames: of the training games.
    """
    predictions = config.objective.predictions
    per_epoch = num_frames // predictions // MIN_UPDATES_PER_EPOCH
    per_run = config.optimizer.total_targets // predictions // MIN_UPDATES
    return max(1, min(MAX_AUTO_BATCH, per_epoch, per_run))
