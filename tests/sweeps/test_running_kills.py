"""A sweep that is killed at any moment loses nothing: the same command goes on, and no trial passes a rung unjudged."""

from __future__ import annotations

import pytest
from sweep_kills import KINDS, run_kills


@pytest.mark.slow
def test_after_a_killed_trial_and_a_killed_command_the_same_command_goes_on(tiny_corpus, tmp_path):
    kills, problems = run_kills(tiny_corpus, tmp_path, ["trial", "driver"], num_kills=2, seed=5)
    assert problems == []
    assert [kill.kind for kill in kills] == ["trial", "driver"]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing(tiny_corpus, tmp_path):
    kills, problems = run_kills(tiny_corpus, tmp_path, list(KINDS), num_kills=20, seed=1)
    assert problems == []
    assert len(kills) == 20
