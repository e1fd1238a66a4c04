"""Controller events, stage geometry and hitlag, worked out one frame at a time and checked on real replays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.loading.frames import FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from wm.data.augment import mirror
from wm.model.derived_features import (
    EVENT_LAYOUT,
    STICK_THRESHOLDS,
    TRIGGER_THRESHOLDS,
    controller_events,
    geometry_features,
)
from wm.model.encoding import BUTTON_BITS, STICKS, Frames, controllers, layout_width, to_frames
from wm.model.heads import displacement_prior
from wm.model.stages import NO_SURFACE, STAGE_SURFACES, surface_table

NUM_FRAMES = 400
FIRST_FRAME = 500


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """A stretch of every game."""
    games = np.arange(len(index))
    starts = np.cumsum(index.num_frames) - index.num_frames + FIRST_FRAME
    return to_frames(take_rows(read_games(index, games), index.facts[games], starts[:, None] + np.arange(NUM_FRAMES)))


def context_of(frames: Frames) -> Frames:
    return frames.slice(0, frames.num_frames - 1)


def events_of(frames: Frames) -> Tensor:
    """(B, T, P, events of a player)."""
    following = controllers(frames.slice(1, frames.num_frames))
    thresholds = torch.tensor(STICK_THRESHOLDS), torch.tensor(TRIGGER_THRESHOLDS)
    return controller_events(context_of(frames), following, *thresholds).unflatten(-1, (2, -1))


def geometry_of(frames: Frames) -> Tensor:
    """(B, T, P, geometry of a player) of all frames."""
    return geometry_features(frames, displacement_prior(frames), surface_table()).unflatten(-1, (2, -1))


def slow_events(frames: Frames, row: int, number: int, player: int) -> Iterator[float]:
    """Of one player between two frames, from the raw columns."""

    def raw(name: str, at: int) -> int:
        return int(frames.code_column(name)[row, at, player])

    ahead = 1 if raw("facing", number) > 0 else -1
    before, after = (
        [raw(name, at) / 80 * (ahead if name.endswith("_x") else 1) for name in STICKS] for at in (number, number + 1)
    )
    for bit in BUTTON_BITS.values():
        yield float(bool(raw("buttons", number + 1) & bit) and not raw("buttons", number) & bit)
    yield from (new - old for old, new in zip(before, after, strict=True))
    triggers = ([raw("trigger", at) / 140] for at in (number, number + 1))
    for old, new, thresholds in ((before, after, STICK_THRESHOLDS), (*triggers, TRIGGER_THRESHOLDS)):
        yield from (float(value > limit) for value in new for limit in thresholds)
        yield from (float(b > limit) - float(a > limit) for a, b in zip(old, new, strict=True) for limit in thresholds)


def test_controller_events_are_presses_and_passed_thresholds(frames):
    found = events_of(frames)
    assert 2 * found.shape[-1] == layout_width(EVENT_LAYOUT)
    for row in range(0, len(found), 5):
        for number in range(0, NUM_FRAMES - 1, 7):
            for player in (0, 1):
                slow = torch.tensor(list(slow_events(frames, row, number, player)))
                torch.testing.assert_close(found[row, number, player], slow, rtol=0, atol=1e-5)
    assert (found.abs() > 0).any(dim=(0, 1, 2)).float().mean() > 0.9  # real players do nearly all of it


def test_derived_features_of_mirrored_frames_are_the_same(frames):
    known = torch.tensor([int(stage) in STAGE_SURFACES for stage in frames.game[:, 0]])
    some = Frames(floats=frames.floats[known], codes=frames.codes[known], game=frames.game[known])
    assert len(some.game) > 10
    torch.testing.assert_close(events_of(mirror(some)), events_of(some))
    torch.testing.assert_close(geometry_of(mirror(some)), geometry_of(some), rtol=0, atol=1e-4)


def test_standing_players_are_on_a_surface_and_airborne_ones_above_it_or_beyond_the_edge(frames):
    rigid = torch.tensor([int(stage) in (28, 31, 32) for stage in frames.game[:, 0]])  # no slope, nothing that moves
    assert rigid.any()
    still = geometry_features(frames, torch.zeros_like(frames.floats[..., :2]), surface_table()).unflatten(-1, (2, -1))
    near, grounded = still[..., 1][rigid], (frames.code_column("airborne") == 0)[rigid]
    assert ((near[grounded] * 2).abs() < 0.1).float().mean() > 0.95  # others stand on a respawn platform
    assert ((near[~grounded] * 2).abs() < 0.1).float().mean() < 0.1
    beyond = (still[..., 7][rigid] > 0) & grounded
    assert beyond.float().sum() < 0.01 * grounded.float().sum()


def test_most_landings_are_a_surface_crossed_by_the_motion(frames):
    rigid = torch.tensor([int(stage) in (28, 31, 32) for stage in frames.game[:, 0]])
    airborne = frames.code_column("airborne") != 0
    lands = (airborne[:, :-1] & ~airborne[:, 1:])[rigid]
    flies_on = (airborne[:, :-1] & airborne[:, 1:])[rigid]
    crosses = geometry_of(context_of(frames))[..., 2][rigid] > 0
    assert lands.sum() >= 20
    assert crosses[lands].float().mean() > 0.85
    assert crosses[flies_on].float().mean() < 0.1


def test_a_stage_without_known_surfaces_has_none_below():
    frames = Frames(
        floats=torch.zeros(1, 1, 2, len(FLOAT_COLUMNS)),
        codes=torch.zeros(1, 1, 2, 17, dtype=torch.int16),
        game=torch.full((1, len(GAME_COLUMNS)), 5, dtype=torch.int16),
    )
    assert geometry_of(frames)[0, 0, :, 4].tolist() == [1.0, 1.0]
    assert (surface_table()[5, :, 1] == NO_SURFACE).all()


def test_nobody_moves_in_hitlag(frames):
    has_hitlag = frames.present("hitlag") > 0
    in_hitlag = (frames.float_column("hitlag") > 1) & has_hitlag[:, None, None]
    in_hitlag = in_hitlag[:, :-1]
    assert in_hitlag.sum() > 100
    context = context_of(frames)
    moving, stopped = displacement_prior(context), displacement_prior(context, stops_in_hitlag=True)
    assert not stopped[in_hitlag].any()
    assert torch.equal(stopped[~in_hitlag], moving[~in_hitlag])
    here = torch.stack([frames.float_column(name) for name in ("x", "y")], dim=-1)
    true = here[:, 1:] - here[:, :-1]
    error, error_if_moving = ((prior - true)[in_hitlag].abs().mean() for prior in (stopped, moving))
    assert error < 0.3 * error_if_moving
