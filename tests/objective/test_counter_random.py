"""Random numbers that depend on nothing but what they are for."""

from __future__ import annotations

import pytest
import torch

from wm.objective.counter_random import chance, key_of, normal, uniform


def numbers(first: int, end: int) -> list[torch.Tensor]:
    return [torch.arange(first, end)[:, None], torch.arange(50)]


def test_an_example_gets_the_same_numbers_in_any_batch():
    whole, part = uniform(key_of(1, "a"), numbers(0, 100)), uniform(key_of(1, "a"), numbers(40, 60))
    assert torch.equal(part, whole[40:60])


def test_numbers_are_uniform_and_differ_between_indices_keys_and_seeds():
    drawn = uniform(key_of(1, "a"), numbers(0, 2_000))
    counts = torch.histc(drawn, 10, 0, 1) / drawn.numel()
    assert counts == pytest.approx(torch.full((10,), 0.1), abs=0.003)
    assert drawn.min() > 0 and drawn.max() < 1
    assert drawn.unique().numel() > 0.99 * drawn.numel()
    for other in (uniform(key_of(2, "a"), numbers(0, 2_000)), uniform(key_of(1, "b"), numbers(0, 2_000))):
        assert abs(torch.corrcoef(torch.stack([drawn.flatten(), other.flatten()]))[0, 1]) < 0.01
    for axis in (0, 1):
        shifted = torch.stack([drawn.flatten(), drawn.roll(1, axis).flatten()])
        assert abs(torch.corrcoef(shifted)[0, 1]) < 0.01


def test_normal_numbers_have_mean_0_and_variance_1():
    drawn = normal(key_of(3), numbers(0, 2_000))
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn.abs() > 2).float().mean() == pytest.approx(0.0455, abs=0.002)


def test_a_chance_is_the_same_whenever_it_is_asked_for():
    draws = [chance(0, number, "recipe") for number in range(4_000)]
    assert draws == [chance(0, number, "recipe") for number in range(4_000)]
    assert sum(draw < 0.2 for draw in draws) / 4_000 == pytest.approx(0.2, abs=0.02)
