"""When an action ends in a dream."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wm.model.dynamics.action_end import next_action
from wm.model.dynamics.sampling import MOST_PROBABLE, Sampling

FALL, LANDING, JUMP, NUM_ACTIONS = 0, 1, 2, 3


def logits_of(*probabilities: float) -> Tensor:
    """Of one player."""
    return torch.tensor(probabilities).log().view(1, 1, 1, NUM_ACTIONS)


def actions_of(frames: list[tuple[float, float, float]], sampling: Sampling = MOST_PROBABLE) -> list[int]:
    """The actions of a player who falls, by the predictions of each frame."""
    action, log_survival = torch.full((1, 1, 1), FALL), torch.zeros(1, 1, 1)
    found = []
    for probabilities in frames:
        before = action
        action, log_survival = next_action(sampling, logits_of(*probabilities), before, log_survival)
        log_survival = torch.where(action == before, log_survival, 0.0)
        found.append(int(action))
    return found


def test_an_action_whose_end_is_certain_within_some_frames_ends_at_the_median():
    # Landing in frame 1, 2, 3 or 4 with probabilities of 0.2, 0.2, 0.2 and 0.4: never the most probable before frame 4.
    hazards = (0.2, 0.25, 1 / 3, 1.0)
    assert actions_of([(1 - p, 0.8 * p, 0.2 * p) for p in hazards]) == [FALL, FALL, LANDING, LANDING]


def test_an_end_that_was_improbable_does_not_come_later():
    assert actions_of([(0.6, 0.4, 0.0), *[(1.0, 0.0, 0.0)] * 50]) == [FALL] * 51


def test_a_new_action_has_survived_nothing_yet():
    frames = [(0.4, 0.6, 0.0), (0.0, 0.7, 0.3), (0.0, 0.8, 0.2), (0.0, 0.8, 0.2)]
    assert actions_of(frames) == [LANDING, LANDING, LANDING, JUMP]


def test_the_most_probable_other_action_follows():
    assert actions_of([(0.2, 0.3, 0.5)]) == [JUMP]
    assert actions_of([(0.4, 0.25, 0.35)]) == [JUMP], "more probable ended than not, although no other action is"


def test_an_action_that_may_not_go_on_ends():
    logits = torch.tensor([-math.inf, 1.0, 0.0]).view(1, 1, 1, -1)
    action, log_survival = next_action(MOST_PROBABLE, logits, torch.full((1, 1, 1), FALL), torch.zeros(1, 1, 1))
    assert int(action) == LANDING and bool(log_survival.isfinite().all())


def test_a_sampled_action_ends_as_often_as_predicted():
    count = 20_000
    sampling = Sampling(temperatures={"action": 1.0}, generator=torch.Generator().manual_seed(0))
    logits = logits_of(0.9, 0.1, 0.0).expand(count, -1, -1, -1)
    before, unlikely = torch.full((count, 1, 1), FALL), torch.full((count, 1, 1), -5.0)
    action, log_survival = next_action(sampling, logits, before, unlikely)
    assert float((action == LANDING).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert not log_survival.any()
