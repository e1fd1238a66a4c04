"""The learning rate over a run, and its rule for other batch sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wm.config.run_config import ObjectiveConfig, OptimizerConfig, RunConfig
from wm.training.schedule import largest_useful_batch, schedule_for

S = 64


def config(**optimizer: Any) -> RunConfig:
    """A run of sequences of 64 with some options of its optimizer."""
    defaults: dict[str, Any] = {"total_targets": 100_000_000, "learning_rate": 1e-3, "warmup_targets": 1_000_000}
    return RunConfig(objective=ObjectiveConfig(sequence_frames=S), optimizer=OptimizerConfig(**defaults | optimizer))


def cosine(progress: float) -> float:
    return 0.1 + 0.9 * (1 + float(np.cos(np.pi * progress))) / 2


def test_the_learning_rate_warms_up_linearly_and_decays_as_a_cosine():
    options = config(total_targets=64_000, learning_rate=2.0, warmup_targets=6_400, min_lr_ratio=0.1)
    rate = schedule_for(options, 10).learning_rate
    assert rate(0) == pytest.approx(2.0 * 0.1)
    assert rate(40 * S) == pytest.approx(2.0 * 0.5 * cosine(0.04))
    assert rate(500 * S) == pytest.approx(2.0 * cosine(0.5)) == pytest.approx(2.0 * 0.55)
    assert rate(1_000 * S) == pytest.approx(2.0 * 0.1) == pytest.approx(rate(5_000 * S))


def test_a_warm_up_of_ten_updates_reaches_the_peak_in_the_tenth():
    rate = schedule_for(config(total_targets=10**12, warmup_targets=10 * 16 * S), 16).learning_rate
    assert [rate(update * 16 * S) for update in range(12)] == pytest.approx([1e-4 * min(10, n) for n in range(1, 13)])


@pytest.mark.parametrize(("batch_size", "factor"), [(64, 0.5), (256, 1.0), (1_024, 2.0), (4_096, 4.0), (9_999, 4.0)])
def test_the_rate_follows_the_square_root_of_the_batch_size_up_to_four_times_the_reference_rate(batch_size, factor):
    assert schedule_for(config(reference_batch_size=256), batch_size).peak == pytest.approx(1e-3 * factor)
    assert schedule_for(config(), batch_size).peak == 1e-3


@pytest.mark.parametrize(("batch_size", "beta1", "beta2"), [(8, 0.95, 0.995), (16, 0.9, 0.99), (64, 0.6, 0.96)])
def test_the_moments_remember_as_many_targets_with_any_batch_size(batch_size, beta1, beta2):
    schedule = schedule_for(config(reference_batch_size=16), batch_size)
    assert (schedule.beta1, schedule.beta2) == pytest.approx((beta1, beta2))
    unscaled = schedule_for(config(), batch_size)
    assert (unscaled.beta1, unscaled.beta2) == (0.9, 0.99)


def test_scaled_betas_have_a_lower_limit():
    largest = schedule_for(config(reference_batch_size=16), 4_096)
    assert (largest.beta1, largest.beta2) == (0.5, 0.9)
    low = schedule_for(config(reference_batch_size=16, beta1=0.3, beta2=0.8), 4_096)
    assert (low.beta1, low.beta2) == (0.3, 0.8)


def test_a_warm_up_of_too_few_updates_is_lengthened_up_to_a_tenth_of_the_run():
    for batch_size, expected in ((16, 1_000_000), (512, 1_000_000), (1_024, 20 * 1_024 * S), (10**5, 10_000_000)):
        assert schedule_for(config(reference_batch_size=16), batch_size).warmup_targets == expected
        assert schedule_for(config(), batch_size).warmup_targets == 1_000_000
    longer = schedule_for(config(reference_batch_size=16, warmup_targets=50_000_000), 10**5)
    assert longer.warmup_targets == 50_000_000


def test_a_warm_up_gets_no_more_updates_than_with_the_reference_batch():
    for warmup_targets in (0, 5 * 16 * S):
        short = config(reference_batch_size=16, warmup_targets=warmup_targets)
        assert schedule_for(short, 16).warmup_targets == warmup_targets
        assert schedule_for(short, 64).warmup_targets == 4 * warmup_targets


def test_an_automatic_batch_leaves_enough_updates_in_an_epoch_and_in_the_run_on_any_number_of_workers():
    assert largest_useful_batch(config(total_targets=10**12), 10**12) == 4_096
    assert largest_useful_batch(config(total_targets=10**12), 64 * 300 * S) == 300
    assert largest_useful_batch(config(total_targets=1_000 * 300 * S), 10**12) == 300
    assert largest_useful_batch(config(), 5) == 1
