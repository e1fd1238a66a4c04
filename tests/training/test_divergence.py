"""Divergence detection: finds a loss spike, accepts a noisy falling loss, and keeps its state across a resume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from wm.config.run_config import DivergenceConfig
from wm.training.divergence import DivergenceDetector

CONFIG = DivergenceConfig(spike_ratio=4.0, window_steps=5)


def first_alarm(losses: list[float], config: DivergenceConfig = CONFIG) -> int | None:
    """The step at which divergence is detected."""
    detector = DivergenceDetector(config)
    return next((step for step, loss in enumerate(losses) if detector.update(loss, step) is not None), None)


def first_alarm_from_all_losses(losses: list[float], config: DivergenceConfig) -> int | None:
    """Slow reference: all window means of a run, from all its losses."""
    size = config.window_steps
    for step in range(len(losses)):
        if not math.isfinite(losses[step]):
            return step
        means = [float(np.mean(losses[end - size + 1 : end + 1])) for end in range(size - 1, step + 1)]
        if step + 1 >= 2 * size and means[-1] >= config.spike_ratio * min(means[:-1]):
            return step
    return None


@pytest.mark.parametrize("seed", range(40))
def test_divergence_is_detected_at_the_step_of_the_slow_reference(seed):
    random = np.random.default_rng(seed)
    config = DivergenceConfig(
        spike_ratio=float(random.uniform(1.2, 6)),
        window_steps=int(random.integers(1, 9)),
    )
    walk = np.exp(np.cumsum(random.normal(0.02, 0.3, size=80))).tolist()
    if seed % 5 == 0:
        walk[int(random.integers(80))] = float("nan")
    assert first_alarm(walk, config) == first_alarm_from_all_losses(walk, config)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_divergence_from_the_first_step_on(loss):
    reason = DivergenceDetector(CONFIG).update(loss, 1_234)
    assert reason == "the loss is not finite at 1,234 targets"


def test_the_message_gives_the_size_of_a_spike():
    detector = DivergenceDetector(CONFIG)
    reasons = [detector.update(loss, 1_000 * step) for step, loss in enumerate([2.0] * 10 + [30.0] * 5, start=1)]
    assert reasons[:10] == [None] * 10
    first = next(reason for reason in reasons if reason is not None)
    assert first == (
        "the loss spiked at 12,000 targets: its mean over 5 steps is 13.2, 6.6 times the lowest before (2)"
    )


def test_one_bad_batch_is_not_divergence():
    assert first_alarm([2.0] * 20 + [20.0] + [2.0] * 20) is None


def test_a_noisy_falling_loss_is_not_divergence():
    steps = np.arange(2_000)
    losses = 8 * np.exp(-steps / 300) + 0.4 + np.random.default_rng(0).gamma(2.0, 0.1, size=2_000)
    assert first_alarm(losses.tolist(), DivergenceConfig()) is None


def test_no_spike_is_detected_within_the_first_two_windows():
    assert first_alarm([0.1] * 5 + [50.0] * 4) is None
    assert first_alarm([0.1] * 5 + [50.0] * 5) == 9


def test_no_spike_is_detected_relative_to_a_loss_of_zero():
    assert first_alarm([0.0] * 10 + [1.0] * 10) is None


@pytest.mark.parametrize("stop_at", range(0, 60, 7))
def test_a_resumed_detector_decides_the_same_at_the_same_step(stop_at):
    losses = np.exp(np.cumsum(np.random.default_rng(3).normal(0.03, 0.3, size=60))).tolist()
    straight, resumed = DivergenceDetector(CONFIG), DivergenceDetector(CONFIG)
    found: list[list[str | None]] = [[], []]
    for step, loss in enumerate(losses):
        if step == stop_at:
            resumed = DivergenceDetector(CONFIG, json.loads(json.dumps(resumed.state())))
        found[0].append(straight.update(loss, step))
        found[1].append(resumed.update(loss, step))
    assert found[0] == found[1]
    assert any(found[0])
    assert straight.state() == resumed.state()


def test_losses_of_eight_steps_at_a_time_count_as_eight_steps():
    config = DivergenceConfig(window_steps=50)
    together, alone = DivergenceDetector(config), DivergenceDetector(config)
    losses = [1.0] * 104 + [9.0] * 56
    by_eight = [together.update(float(np.mean(losses[at : at + 8])), at + 8, 8) for at in range(0, len(losses), 8)]
    by_one = [alone.update(loss, at + 1) for at, loss in enumerate(losses)]
    first_of_eight = 8 * (1 + next(n for n, reason in enumerate(by_eight) if reason))
    first_of_one = 1 + next(n for n, reason in enumerate(by_one) if reason)
    assert 0 <= first_of_eight - first_of_one <= 8
    assert together.state()["num_steps"] == alone.state()["num_steps"] == 160


def test_the_state_does_not_grow():
    detector = DivergenceDetector(CONFIG)
    for step in range(1_000):
        detector.update(1.0, step, 3)
    assert len(detector.state()["window"]) <= CONFIG.window_steps
