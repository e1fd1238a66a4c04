"""Noise on input frames: of the size of the model's own errors, from a random frame on, leading back to the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import gather
from wm.config.rollout_config import NoiseConfig
from wm.model.dynamics.deaths import NUM_SCRIPTED, REBIRTH
from wm.model.encoding import EMBEDDINGS, Frames, to_frames
from wm.model.heads import BINARIES, CATEGORIES, DELTAS, DYNAMICS, VELOCITIES, Prediction
from wm.objective.input_noise import add_noise
from wm.objective.losses import ground_truth
from wm.objective.own_errors import NOISY_COLUMNS, NOISY_FIELDS, NUM_ERRORS, OwnErrors

NUM_EXAMPLES, T = 200, 40
EXAMPLES = torch.arange(NUM_EXAMPLES)
FALL, LANDING = 29, 42


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """Stretches of the first game, as if it had velocities."""
    arrays = read_games(index, [0])
    starts = EXAMPLES.numpy() * 5 + 300
    found = to_frames(gather(arrays, index.facts[[0] * NUM_EXAMPLES], starts, T + 1))
    return replace(found, game=torch.cat([found.game[:, :1], torch.ones_like(found.game[:, 1:])], dim=1))


@pytest.fixture
def errors() -> OwnErrors:
    """A model that errs by 0.1, 0.2, ... units, and takes one fall in ten for a landing."""
    found = OwnErrors(torch.device("cpu"))
    found.mean_errors = 0.1 * torch.arange(1.0, NUM_ERRORS + 1)
    found.confusions["action"][FALL, LANDING] = 5.0
    return found


def noise_of(frames: Frames, noisy: Frames) -> torch.Tensor:
    return (noisy.floats - frames.floats)[..., list(NOISY_COLUMNS)]


def test_noise_begins_at_a_random_frame_of_the_chosen_examples_and_spares_targets_and_all_other_columns(frames, errors):
    noisy, begin = add_noise(frames, NoiseConfig(share=0.5), errors, 7, EXAMPLES)
    others = [column for column in range(len(FLOAT_COLUMNS)) if column not in NOISY_COLUMNS]
    assert torch.equal(noisy.floats[..., others], frames.floats[..., others])
    assert torch.equal(noisy.codes, frames.codes)
    is_noisy = begin < T
    assert is_noisy.float().mean() == pytest.approx(0.5, abs=0.1)
    assert begin[is_noisy].min() <= 3 and begin[is_noisy].max() >= T - 4
    changed = noise_of(frames, noisy).abs().amax((-1, -2)) > 0
    frame = torch.arange(T + 1)
    lives = (frames.code_column("action") >= NUM_SCRIPTED).any(-1)
    assert torch.equal(changed, (frame >= begin[:, None]) & (frame < T) & lives)


@pytest.mark.parametrize("walk_frames", [1, 9])
def test_noise_is_a_random_walk_whose_steps_are_as_large_as_the_models_errors(frames, errors, walk_frames):
    config = NoiseConfig(share=1.0, scale=2.0, walk_frames=walk_frames)
    alive = replace(frames, codes=frames.codes.clone())
    alive.codes[..., CODE_COLUMNS.index("action")] = FALL
    noisy, begin = add_noise(alive, config, errors, 7, EXAMPLES)
    noise, frame = noise_of(alive, noisy), torch.arange(T + 1)
    for age in (0, 3, 12):
        found = noise[(frame == begin[:, None] + age) & (frame < T)].flatten(0, 1)
        expected = 2.0 * errors.mean_errors * math.sqrt(min(age + 1, walk_frames))
        torch.testing.assert_close(found.abs().mean(0), expected, rtol=0.2, atol=0.0)


def test_a_step_from_a_noisy_frame_leads_to_the_true_next_frame(frames, errors):
    noisy, _ = add_noise(frames, NoiseConfig(share=1.0), errors, 7, EXAMPLES)
    before, after = noisy.slice(0, T), frames.slice(1, T + 1)
    truth = ground_truth(before, after)
    for name in NOISY_FIELDS:
        values, names = (truth.deltas, DELTAS) if name in DELTAS else (truth.velocities, VELOCITIES)
        reached = before.float_column(name) + values[..., names.index(name)]
        torch.testing.assert_close(reached, after.float_column(name), rtol=0, atol=1e-4)


def test_neither_dead_players_nor_games_without_velocities_get_noise_that_no_game_shows(frames, errors):
    codes = frames.codes.clone()
    codes[..., 0, CODE_COLUMNS.index("action")] = REBIRTH
    game = frames.game.clone()
    game[:, GAME_COLUMNS.index("has_velocity")] = 0
    old = Frames(floats=frames.floats, codes=codes, game=game)
    noise = noise_of(old, add_noise(old, NoiseConfig(share=1.0), errors, 7, EXAMPLES)[0])
    assert (noise[:, :, 0] == 0).all()
    assert (noise[:, 1:, 1, :2] != 0).any() and (noise[..., 2:] == 0).all()


def test_categories_are_replaced_by_what_the_model_confuses_them_with(frames, errors):
    codes = frames.codes.clone()
    codes[:, ::2, :, CODE_COLUMNS.index("action")] = FALL
    half = replace(frames, codes=codes)
    noisy, begin = add_noise(half, NoiseConfig(share=1.0, confusion=0.25), errors, 7, EXAMPLES)
    was, now = (f.code_column("action") for f in (half, noisy))
    frame = torch.arange(T + 1)
    may_change = ((frame >= begin[:, None]) & (frame < T))[..., None] & (was == FALL)
    assert torch.equal(now[~may_change], was[~may_change])
    assert (now[may_change] == LANDING).float().mean() == pytest.approx(0.25, abs=0.02)
    assert set(now[may_change].tolist()) == {FALL, LANDING}
    others = [column for column, name in enumerate(CODE_COLUMNS) if name != "action"]
    assert torch.equal(noisy.codes[..., others], half.codes[..., others])


def test_an_example_gets_the_same_noise_in_any_batch_and_other_noise_with_another_key(frames, errors):
    config = NoiseConfig(share=0.7, confusion=0.3)
    whole, begin = add_noise(frames, config, errors, 7, EXAMPLES)
    part, begin_of_part = add_noise(frames.examples(30, 50), config, errors, 7, EXAMPLES[30:50])
    assert torch.equal(part.floats, whole.floats[30:50]) and torch.equal(part.codes, whole.codes[30:50])
    assert torch.equal(begin_of_part, begin[30:50])
    assert not torch.equal(add_noise(frames, config, errors, 8, EXAMPLES)[0].floats, whole.floats)


def test_the_estimates_are_the_mean_errors_and_confusions_of_clean_frames_alone(frames):
    before, after = frames.slice(0, T), frames.slice(1, T + 1)
    truth = ground_truth(before, after)
    logits = {name: torch.zeros(NUM_EXAMPLES, T, 2, EMBEDDINGS[name][0]) for name in CATEGORIES}
    for name, values in logits.items():
        values.scatter_(-1, truth.categories[name][..., None], 9.0)
    logits["jumps"] = logits["jumps"].roll(1, -1)
    prediction = Prediction(
        deltas=truth.deltas + 0.5, velocities=truth.velocities - 0.25, dynamics=truth.dynamics,
        binaries=torch.zeros(NUM_EXAMPLES, T, 2, len(BINARIES)), categories=logits,
    )  # fmt: skip
    assert len(DYNAMICS) == prediction.dynamics.shape[-1]
    found, is_clean = OwnErrors(torch.device("cpu")), torch.zeros(NUM_EXAMPLES, T, dtype=torch.bool)
    found.observe(prediction, before, after, is_clean)
    found.update()
    assert (found.mean_errors == 0).all() and all((table == 0).all() for table in found.confusions.values())
    is_clean[::2, :5] = True
    found.observe(prediction, before, after, is_clean)
    found.update()
    expected = torch.tensor([0.5, 0.5, *[0.25] * len(VELOCITIES)])
    torch.testing.assert_close(found.mean_errors, 0.01 * expected, rtol=1e-4, atol=1e-6)
    assert found.confusions["action"].sum() == 0
    jumps = found.confusions["jumps"]
    assert jumps.sum() == NUM_EXAMPLES // 2 * 5 * 2
    assert jumps.sum() == sum(jumps[value, (value + 1) % len(jumps)] for value in range(len(jumps)))
