"""Input frames that the model made itself: as a dream makes them, where the true ones were."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.loading.frames import GameIndex, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.config.model_config import ModelConfig
from wm.config.rollout_config import TwoPassConfig, UnrollConfig
from wm.model.animation import age_table
from wm.model.dynamics.clocks import clock_of_each, clock_of_last
from wm.model.dynamics.imagination import controller_columns
from wm.model.dynamics.next_frame import ActionClock, GameRules
from wm.model.encoding import Frames, controllers, to_frames
from wm.model.heads import Prediction
from wm.model.motion.choice import MotionPrediction
from wm.model.world_model import Mamba2WorldModel
from wm.objective.fed_back_inputs import num_runs, sampling_of, two_passes, unrolled
from wm.objective.rollout_inputs import unroll_frames

T = 40
MOST_PROBABLE = sampling_of(0.0, 0, torch.arange(3))


@pytest.fixture(scope="module")
def model() -> Mamba2WorldModel:
    """Random weights, with which predictions are far from the prior."""
    torch.manual_seed(3)
    found = Mamba2WorldModel(ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16))
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return found


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """A stretch of three games, one of which lacks velocities if real replays are there."""
    games = np.argsort(index.facts[:, 1], kind="stable")[[0, -2, -1]]
    starts = np.cumsum(index.num_frames[games]) - index.num_frames[games] + COUNTDOWN_FRAMES + 400
    rows = starts[:, None] + np.arange(T + 1)
    return to_frames(take_rows(read_games(index, games), index.facts[games], rows))


def one(values: torch.Tensor, example: int, place: int) -> torch.Tensor:
    """(1, 1, ...) of (B, T, ...)."""
    return values[example : example + 1, place : place + 1]


def one_frame(frames: Frames, example: int, place: int) -> Frames:
    return frames.examples(example, example + 1).slice(place, place + 1)


def changed_frames(frames: Frames, other: Frames) -> torch.Tensor:
    return ((frames.floats != other.floats).any(-1) | (frames.codes != other.codes).any(-1)).any(-1)


@pytest.mark.parametrize("keeps_speed", [False, True])
def test_the_clock_of_each_frame_is_that_of_a_dream_that_begins_there(frames, keeps_speed):
    clocks = clock_of_each(frames, age_table(), keeps_speed=keeps_speed)
    clock = None
    for end in range(1, T + 2):
        at_once = clock_of_last(frames.slice(0, end), age_table(), keeps_speed=keeps_speed)
        known = frames.slice(max(0, end - 2), end)
        clock = clock_of_last(known, age_table(), clock, keeps_speed=keeps_speed)
        for found in (at_once, clock):
            assert torch.equal(clocks.speed[:, end - 1 : end], found.speed)
            assert torch.equal(clocks.frames[:, end - 1 : end], found.frames)


@torch.no_grad()
def test_two_passes_replace_runs_by_what_the_rules_make_of_the_first_passs_predictions(model, frames):
    """Against a slow twin: frame by frame, from the first changed frame of each run on."""
    rules, config, examples = GameRules(), TwoPassConfig(share=1.0, longest_run=4), torch.arange(3)
    rules.sampling = MOST_PROBABLE
    found, begin = two_passes(model, rules, frames, config, 5, examples)
    prediction, _ = model.observe(frames.slice(0, T), controllers(frames.slice(1, T + 1)))
    clocks = clock_of_each(frames, age_table(), keeps_speed=model.fields.animation)
    changed = changed_frames(frames, found)
    assert not changed[:, 0].any() and not changed[:, -1].any()
    for example in range(3):
        assert changed[example].int().argmax() == begin[example]
        last, clock = frames, None
        for place in range(1, T):
            if not changed[example, place]:
                continue
            if not changed[example, place - 1]:
                last = one_frame(frames, example, place - 1)
                clock = ActionClock(
                    speed=one(clocks.speed, example, place - 1), frames=one(clocks.frames, example, place - 1)
                )
            assert clock is not None
            said = Prediction(
                **{name: one(getattr(prediction, name), example, place - 1)
                   for name in ("deltas", "velocities", "dynamics", "binaries", "hitstun", "animation", "flags")},
                categories={name: one(values, example, place - 1) for name, values in prediction.categories.items()},
                motion=MotionPrediction(
                    **{name: one(getattr(prediction.motion, name), example, place - 1)
                       for name in ("logits", "candidates", "values", "airborne")}
                ),
            )  # fmt: skip
            last, clock = rules(last, clock, said, controller_columns(one_frame(frames, example, place)))
            now = one_frame(found, example, place)
            torch.testing.assert_close(now.floats, last.floats)
            assert torch.equal(now.codes, last.codes)


@torch.no_grad()
@pytest.mark.parametrize(("replaced", "longest_run"), [(0.1, 1), (0.2, 4), (0.4, 3)])
def test_the_share_and_the_length_of_replaced_runs_are_as_configured(model, frames, replaced, longest_run):
    config = TwoPassConfig(share=1.0, replaced=replaced, longest_run=longest_run)
    examples = torch.arange(300)
    rows = examples % 3
    many = Frames(floats=frames.floats[rows], codes=frames.codes[rows], game=frames.game[rows])
    rules = GameRules()
    rules.sampling = sampling_of(1.0, 3, examples)
    found, _ = two_passes(model, rules, many, config, 3, examples)
    changed = changed_frames(many, found)
    assert changed.float().mean() == pytest.approx(num_runs(config, T) * (1 + longest_run) / 2 / (T + 1), rel=0.1)
    assert num_runs(config, T) * (1 + longest_run) / 2 == pytest.approx(replaced * T, abs=longest_run)
    assert not torch.stack([changed[:, k : T - longest_run + k] for k in range(longest_run + 1)]).all(0).any()
    assert (changed.sum(0)[1:T] > 0).float().mean() > 0.9  # anywhere


@torch.no_grad()
def test_replaced_frames_keep_the_true_controllers_and_the_target_its_truth(model, frames):
    rules = GameRules()
    rules.sampling = MOST_PROBABLE
    for found, _ in (
        two_passes(model, rules, frames, TwoPassConfig(share=1.0), 5, torch.arange(3)),
        unrolled(model, rules, frames, 8, torch.arange(3)),
    ):
        assert torch.equal(controller_columns(found), controller_columns(frames))
        assert torch.equal(found.floats[:, -1], frames.floats[:, -1])
        assert torch.equal(found.codes[:, -1], frames.codes[:, -1])
        assert torch.equal(found.game, frames.game)


@torch.no_grad()
def test_the_pass_over_a_sequence_that_ends_in_a_dream_predicts_what_the_carried_state_predicts(model, frames):
    rules, first, length = GameRules(), T - 6, 6
    rules.sampling = MOST_PROBABLE
    found, begin = unrolled(model, rules, frames, length, torch.arange(3))
    assert begin.tolist() == [first] * 3
    assert torch.equal(found.floats[:, :first], frames.floats[:, :first])
    dense = model(found)
    _, state = model.observe(
        frames.slice(0, first - 1), controllers(frames.slice(1, first)), return_state=True, last_only=True
    )
    last, clock = frames.slice(first - 1, first), clock_of_last(frames.slice(0, first), age_table())
    for place in range(first, T + 1):
        prediction, state = model.step(state, last, controllers(frames.slice(place, place + 1)))
        torch.testing.assert_close(dense.deltas[:, place - 1 : place], prediction.deltas, rtol=1e-4, atol=1e-4)
        for name, logits in prediction.categories.items():
            torch.testing.assert_close(dense.categories[name][:, place - 1 : place], logits, rtol=1e-3, atol=1e-3)
        if place < T:
            last, clock = rules(last, clock, prediction, controller_columns(frames.slice(place, place + 1)))
            torch.testing.assert_close(found.floats[:, place : place + 1], last.floats, rtol=1e-4, atol=1e-4)
            assert torch.equal(found.codes[:, place : place + 1], last.codes)


@torch.no_grad()
def test_an_example_gets_the_same_inputs_in_any_batch_and_sampled_ones_with_another_key(model, frames):
    def inputs(key: int, first: int, end: int) -> tuple[Frames, Frames]:
        rules, examples = GameRules(), torch.arange(first, end)
        part = frames.examples(first, end)
        rules.sampling = sampling_of(1.0, key, examples)
        replaced, _ = two_passes(model, rules, part, TwoPassConfig(share=1.0), key, examples)
        return replaced, unrolled(model, rules, part, 8, examples)[0]

    for whole, part, other in zip(inputs(1, 0, 3), inputs(1, 1, 3), inputs(2, 0, 3), strict=True):
        torch.testing.assert_close(part.floats, whole.floats[1:], rtol=1e-4, atol=1e-4)
        assert torch.equal(part.codes, whole.codes[1:])
        assert not torch.equal(other.codes, whole.codes)


def test_sampled_categories_have_the_frequencies_of_their_logits():
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    logits = probabilities.log().expand(200, 50, 2, -1)
    chosen = sampling_of(1.0, 9, torch.arange(200)).category("action", logits)
    frequencies = torch.bincount(chosen.flatten(), minlength=4) / chosen.numel()
    torch.testing.assert_close(frequencies, probabilities, rtol=0, atol=0.01)
    yes = sampling_of(1.0, 9, torch.arange(200)).binary("facing", torch.full((200, 50, 2), 1.0))
    assert yes.float().mean() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=0.01)


def test_dreams_grow_over_the_first_part_of_a_run():
    config = UnrollConfig(share=1.0, frames=(1, 2, 5), growth=0.6)
    assert [unroll_frames(config, progress / 10) for progress in range(11)] == [1, 1, 2, 2, 5, 5, 5, 5, 5, 5, 5]
