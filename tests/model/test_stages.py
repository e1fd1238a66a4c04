"""Stages in tables: rows of mirrored and unlisted stages, and surfaces on which real players stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, index_games, read_games
from datasets.schema.splits import SplitConfig
from wm.data.augment import mirror
from wm.model.dynamics.deaths import REBIRTH, REBIRTH_WAIT
from wm.model.dynamics.stage_rules import BLAST_ZONES, OTHER_ZONE, blast_zone_table, respawn_place_table
from wm.model.encoding import NUM_STAGES, Frames, stage_category
from wm.model.motion.ledges import LEDGES
from wm.model.stages import NO_SURFACE, STAGE_SURFACES, stage_rows, surface_below, surface_table

FOUNTAIN, YOSHI, DREAM_LAND = 2, 8, 28
TOLERANCE = 0.002
"""Game units."""


def frames_on(stage: int) -> Frames:
    """One frame on a stage."""
    game = torch.zeros(1, len(GAME_COLUMNS), dtype=torch.int16)
    game[:, 0] = stage
    return Frames(
        floats=torch.zeros(1, 1, 2, len(FLOAT_COLUMNS)),
        codes=torch.zeros(1, 1, 2, len(CODE_COLUMNS), dtype=torch.int16),
        game=game,
    )


@pytest.fixture(scope="module")
def dev_games(dev_corpus: Path) -> GameIndex:
    return index_games(open_corpus(dev_corpus), "all", SplitConfig())


@pytest.mark.parametrize("stage", [0, 1, 4, 24, 29, 30, 33, 200])
def test_a_stage_that_is_not_listed_has_no_blast_zone_and_no_surface_mirrored_or_not(stage):
    for frames in (frames_on(stage), mirror(frames_on(stage))):
        assert tuple(stage_rows(frames, blast_zone_table()).flatten().tolist()) == OTHER_ZONE
        facing = stage_rows(frames, respawn_place_table())[..., 1]
        assert (facing == (-1.0 if int(frames.game[0, 0]) >= 0 else 1.0)).all()
        here = torch.zeros(1, 1, 2)
        assert (surface_below(here, here, stage_rows(frames, surface_table())) == NO_SURFACE).all()


@pytest.mark.parametrize("stage", sorted(BLAST_ZONES))
def test_a_mirrored_stage_is_the_mirror_image_of_the_stage(stage):
    here, there = frames_on(stage), mirror(frames_on(stage))
    left, right, low, high = stage_rows(here, blast_zone_table()).flatten().tolist()
    assert (left, right, low, high) == pytest.approx(BLAST_ZONES[stage])
    assert stage_rows(there, blast_zone_table()).flatten().tolist() == [-right, -left, low, high]
    x = torch.linspace(-100, 100, 401).reshape(1, -1, 1)
    for y in (0.0, 30.0, 60.0):
        surface, mirrored = (
            surface_below(at, torch.full_like(x, y), stage_rows(frames, surface_table()))
            for at, frames in ((x, here), (-x, there))
        )
        torch.testing.assert_close(mirrored, surface, rtol=0, atol=1e-4)
    places = respawn_place_table()
    assert torch.equal(stage_rows(there, places), -stage_rows(here, places))


def test_a_mirrored_tournament_stage_has_an_embedding_of_its_own():
    rows = {int(stage_category(change(frames_on(stage)).game)) for stage in BLAST_ZONES for change in (mirror, _same)}
    assert len(rows) == 2 * len(BLAST_ZONES) and max(rows) < NUM_STAGES


def _same(frames: Frames) -> Frames:
    return frames


@pytest.mark.parametrize("stage", sorted(LEDGES))
def test_the_main_platform_ends_at_its_ledges(stage):
    distance, height = LEDGES[stage]
    (left, left_height), *_, (right, right_height) = STAGE_SURFACES[stage].floor
    assert (-left, right) == pytest.approx((distance, distance), abs=0.005)
    assert (left_height, right_height) == pytest.approx((height, height), abs=0.001)


@pytest.mark.parametrize(("stage", "inner", "outer"), [(YOSHI, 39.3, 55.9), (FOUNTAIN, 51.3, 63.0)])
def test_players_stand_on_the_slopes(dev_games, stage, inner, outer):
    frames = read_games(dev_games, np.flatnonzero(dev_games.facts[:, 0] == stage))
    x, y = (torch.from_numpy(frames.floats[..., FLOAT_COLUMNS.index(name)]) for name in ("x", "y"))
    airborne, action = (frames.codes[..., CODE_COLUMNS.index(name)] for name in ("airborne", "action"))
    stands = torch.from_numpy((airborne == 0) & (action > REBIRTH_WAIT)) & (x.abs() > inner) & (x.abs() < outer)
    stands &= y.abs() < 5.0
    assert stands.sum() > 500
    found = surface_below(x[None], y[None], stage_rows(frames_on(stage), surface_table()))[0]
    assert ((found - y).abs() < TOLERANCE)[stands].float().mean() > 0.97


def test_players_come_back_at_the_place_of_their_port(dev_games):
    right, elsewhere = 0, 0
    for game in range(len(dev_games)):
        stage, *_, first, second = dev_games.facts[game].tolist()
        if stage not in (31, 32):
            continue
        frames = read_games(dev_games, [game])
        action = frames.codes[..., CODE_COLUMNS.index("action")]
        for player, port in enumerate((first, second)):
            x, facing = respawn_place_table()[stage, port - 1].tolist()
            (begins,) = np.nonzero((action[1:, player] == REBIRTH) & (action[:-1, player] != REBIRTH))
            found = frames.floats[begins + 1, player, FLOAT_COLUMNS.index("x")]
            faced = frames.codes[begins + 1, player, CODE_COLUMNS.index("facing")]
            is_right = (np.abs(found - x) < 0.01) & (faced == facing)
            right, elsewhere = right + int(is_right.sum()), elsewhere + int((~is_right).sum())
    assert right > 50 and elsewhere == 0
