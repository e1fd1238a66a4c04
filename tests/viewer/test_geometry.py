"""The drawn stages against real games: who stands on the ground stands on a surface of the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import BROWSER, Browser

from datasets.replays.game import Game
from datasets.replays.slp_reader import parse_replay
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.melee_ids import TOURNAMENT_STAGES
from wm.model.dynamics.stage_rules import BLAST_ZONES
from wm.model.stages import STAGE_SURFACES
from wm.report.page import write_page
from wm.viewer.geometry import (
    BODIES,
    FOUNTAIN,
    RANDALL_PATH,
    RANDALL_PERIOD,
    RANDALL_WIDTH,
    YOSHI,
    stage_as_json,
)
from wm.viewer.page import joined_modules

STADIUM = 3
RANDALL_GROUND = 0
"""`ground` of the cloud of Yoshi's Story."""
GAMES_PER_STAGE = 2
NEAR = 0.06
"""Game units between the drawn and the recorded height."""
LEDGE_MARGIN = 0.3
"""Game units that a player who stands at an edge may be beyond it."""
CALM = range(14, 75)
"""Actions from standing to landing: others may hold a player off the ground that the game names."""


def floor_height(stage: int, x: np.ndarray) -> np.ndarray:
    """Height of the main platform at some places; NaN beyond its ledges."""
    points = np.array(STAGE_SURFACES[stage].floor)
    return np.interp(x, points[:, 0], points[:, 1], left=np.nan, right=np.nan)


def randall(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left end and height of the cloud of Yoshi's Story by Slippi frame id: `randallAt` of the page in NumPy."""
    path = np.array(RANDALL_PATH)
    place = (frames - path[0, 0]) % RANDALL_PERIOD + path[0, 0]
    return np.interp(place, path[:, 0], path[:, 1]), np.interp(place, path[:, 0], path[:, 2])


@pytest.fixture(scope="module", params=sorted(TOURNAMENT_STAGES))
def standing(
    request: pytest.FixtureRequest, read_real: Callable[[str], bytes], inventory: list[dict[str, str]]
) -> tuple[int, np.ndarray]:
    """A stage, and frame, ground, x and y of players who stand in its games: float64 (n, 4)."""
    stage = int(request.param)
    rows = [row for row in inventory if row["set"] == "dev" and row["good"] == "True" and row["stage"] == str(stage)]
    games = [parse_replay(read_real(row["file"])) for row in rows[:GAMES_PER_STAGE]]
    assert games
    return stage, np.concatenate([rows for game in games for rows in _standing(game)])


def _standing(game: Game) -> Iterator[np.ndarray]:
    for player in game.players:
        on_ground = (player["airborne"] == 0) & np.isin(player["action"], CALM)
        frames = np.arange(len(on_ground)) + FIRST_FRAME_ID
        columns = (frames, player["ground"], player["x"], player["y"])
        yield np.stack([np.asarray(column, np.float64)[on_ground] for column in columns], axis=1)


def test_who_stands_on_the_main_platform_is_drawn_on_it(standing):
    stage, rows = standing
    x, y = rows[:, 2], rows[:, 3]
    height = floor_height(stage, np.clip(x, *_ends(stage)))
    below = np.abs(y - height) < NEAR
    assert below.mean() > (0.5 if stage == STADIUM else 0.75)
    assert (np.abs(x[below]) < _ends(stage)[1] + LEDGE_MARGIN).all()


def _ends(stage: int) -> tuple[float, float]:
    floor = STAGE_SURFACES[stage].floor
    return floor[0][0], floor[-1][0]


def test_nearly_everybody_stands_on_a_drawn_surface(standing):
    stage, rows = standing
    frame, ground, x, y = rows.T
    on = np.abs(y - floor_height(stage, np.clip(x, *_ends(stage)))) < NEAR
    for number, (left, right, height) in enumerate(stage_as_json(stage)["platforms"]):
        moves = stage == FOUNTAIN and number < 2
        beside = (x > left - LEDGE_MARGIN) & (x < right + LEDGE_MARGIN)
        on |= beside & (((ground == number) & (y > -1.0)) if moves else (np.abs(y - height) < NEAR))
    if stage == YOSHI:
        left, height = randall(frame)
        on |= (ground == RANDALL_GROUND) & (np.abs(y - height) < 0.5) & (x > left - 1) & (x < left + RANDALL_WIDTH + 1)
    # Pokemon Stadium is drawn without its transformations; that of the moment is not among the columns.
    assert on.mean() > (0.75 if stage == STADIUM else 0.985)


def test_the_cloud_of_yoshis_story_is_drawn_where_players_stand_on_it(read_real, inventory):
    stood = 0
    for row in inventory:
        if row["set"] != "dev" or row["good"] != "True" or row["stage"] != str(YOSHI):
            continue
        for frame, ground, x, y in np.concatenate(list(_standing(parse_replay(read_real(row["file"]))))):
            if ground == RANDALL_GROUND:
                left, height = randall(np.array([frame]))
                assert abs(y - height[0]) < 0.5
                assert left[0] - 0.5 < x < left[0] + RANDALL_WIDTH + 0.5
                stood += 1
    assert stood > 20


def test_the_cloud_goes_around_the_stage_and_comes_back():
    frames = np.arange(1200)
    left, height = randall(frames)
    again = randall(frames + 1200)
    assert np.array_equal(left, again[0]) and np.array_equal(height, again[1])
    assert np.hypot(np.diff(left), np.diff(height)).max() < 0.6
    assert left.min() < -103 and left.max() > 91


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome on the PATH")
def test_the_page_moves_the_cloud_along_the_same_path(tmp_path: Path):
    cloud = json.dumps({"width": RANDALL_WIDTH, "period": RANDALL_PERIOD, "path": RANDALL_PATH})
    script = f"window.randallAt = randallAt;\n{joined_modules()}"
    frames = np.arange(-123, 2_500)
    with Browser() as browser:
        page = browser.open(write_page(tmp_path / "cloud.html", f'<script type="module">{script}</script>'))
        places = page.evaluate(
            f"Array.from({{length: {len(frames)}}}, (_, at) => randallAt(at - 123, {cloud}))"
            ".map(({left, right, y}) => [left, right, y])"
        )
    left, height = randall(frames)
    np.testing.assert_allclose(places, np.stack([left, left + RANDALL_WIDTH, height], axis=1), atol=1e-9)


@pytest.mark.parametrize("stage", sorted(STAGE_SURFACES))
def test_every_stage_lies_within_its_blast_zones(stage):
    left, right, low, high = BLAST_ZONES[stage]
    shape = stage_as_json(stage)
    for x, y in (*shape["floor"], *shape["body"]):
        assert left < x < right and low <= y < high
    assert shape["floor"][0][0] == -shape["floor"][-1][0]
    assert all(left < a < b < right and 0 < y < high for a, b, y in shape["platforms"])


def test_every_tournament_stage_is_drawn():
    assert STAGE_SURFACES.keys() == BODIES.keys() == TOURNAMENT_STAGES.keys() == BLAST_ZONES.keys()
