"""Exchanged players and mirrored stages: the same game, and the same draw whoever gets an example."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import gather, take_rows
from wm.config.run_config import ObjectiveConfig
from wm.data.augment import DEAD_LEFT, DEAD_RIGHT, augment, mirror, swap_players
from wm.data.batches import LocalBatch
from wm.model.derived_features import egocentric_features
from wm.model.encoding import Frames, controllers, to_frames
from wm.model.heads import displacement_prior

NUM_EXAMPLES = 200


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """Two hundred stretches of the first game."""
    arrays = read_games(index, [0])
    starts = torch.arange(NUM_EXAMPLES).numpy() * 5 + 300
    return to_frames(gather(arrays, index.facts[[0] * NUM_EXAMPLES], starts, 6))


def same(first: Frames, second: Frames) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("floats", "codes", "game"))


def share_of(frames: Frames, first: int, end: int) -> LocalBatch:
    return LocalBatch(frames=frames.examples(first, end), game=frames.game, num_examples=NUM_EXAMPLES, first=first)


def test_a_mirrored_frame_has_its_sides_exchanged_and_all_else_as_it_was(frames):
    other = mirror(frames)
    for columns, before, after, turned in (
        (FLOAT_COLUMNS, frames.floats, other.floats, {"x", "self_air_x", "self_ground_x", "attack_x"}),
        (CODE_COLUMNS, frames.codes, other.codes, {"facing", "main_x", "c_x"}),
    ):
        for number, name in enumerate(columns):
            if name == "action":
                continue
            assert torch.equal(after[..., number], before[..., number] * (-1 if name in turned else 1)), name
    prior, turned_prior = displacement_prior(frames), displacement_prior(other)
    torch.testing.assert_close(turned_prior[..., 0], -prior[..., 0])
    torch.testing.assert_close(turned_prior[..., 1], prior[..., 1])
    assert torch.equal(controllers(other)[..., 1], controllers(frames)[..., 1])


def test_the_sides_of_the_stage_in_an_action_are_exchanged(frames):
    codes = frames.codes.clone()
    codes[0, :, 0, 0] = torch.tensor([0, 1, 2, 3, 399, 1])
    changed = Frames(floats=frames.floats, codes=codes, game=frames.game)
    assert mirror(changed).codes[0, :, 0, 0].tolist() == [0, 2, 1, 3, 399, 2]
    assert torch.equal(mirror(changed).codes[:, :, 1, 0], codes[:, :, 1, 0])


def test_in_mirrored_games_too_players_die_on_the_side_that_their_action_names(index):
    arrays, game_of_frame = read_games(index, np.arange(len(index))), np.repeat(np.arange(len(index)), index.num_frames)
    action = arrays.codes[..., CODE_COLUMNS.index("action")]
    at_side = np.flatnonzero(np.isin(action, (DEAD_LEFT, DEAD_RIGHT)).any(axis=1))
    assert len(at_side)
    whole = to_frames(take_rows(arrays, index.facts[game_of_frame[at_side]], at_side[:, None]))
    other = mirror(whole)
    assert same(mirror(other), whole)
    for frames in (whole, other):
        x, action = frames.float_column("x"), frames.code_column("action")
        assert (x[action == DEAD_LEFT] < 0).all() and (x[action == DEAD_RIGHT] > 0).all()
    assert (other.code_column("action") == DEAD_LEFT).sum() == (whole.code_column("action") == DEAD_RIGHT).sum() > 0


def test_egocentric_features_are_invariant_to_mirroring(frames):
    last = frames.num_frames - 1
    here, there = (
        egocentric_features(f.slice(0, last), controllers(f.slice(1, last + 1))) for f in (frames, mirror(frames))
    )
    torch.testing.assert_close(here, there)
    assert here.abs().max() > 0.5


def test_mirrored_twice_or_swapped_twice_is_what_it_was(frames):
    assert same(mirror(mirror(frames)), frames) and not same(mirror(frames), frames)
    assert same(swap_players(swap_players(frames)), frames) and not same(swap_players(frames), frames)
    assert (
        torch.equal(swap_players(frames).ports, frames.ports.flip(1)) and (frames.ports != frames.ports.flip(1)).any()
    )


@pytest.mark.parametrize("options", [{"swap_players": True}, {"mirror": True}, {"swap_players": True, "mirror": True}])
def test_the_ranks_together_draw_what_one_rank_draws(frames, options):
    objective = ObjectiveConfig(**options)
    whole = augment(share_of(frames, 0, NUM_EXAMPLES), objective, (3, 7))
    parts = [augment(share_of(frames, a, b), objective, (3, 7)) for a, b in ((0, 70), (70, NUM_EXAMPLES))]
    assert torch.equal(whole.floats, torch.cat([part.floats for part in parts]))
    assert torch.equal(whole.codes, torch.cat([part.codes for part in parts]))
    assert torch.equal(whole.game, torch.cat([part.game for part in parts]))
    unchanged = (whole.floats == frames.floats).flatten(1).all(1).float().mean()
    assert abs(float(unchanged) - 0.5 ** len(options)) < 0.15


def test_nothing_is_changed_where_nothing_is_asked_for(frames):
    assert same(augment(share_of(frames, 0, NUM_EXAMPLES), ObjectiveConfig(), (0, 0)), frames)
