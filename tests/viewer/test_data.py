"""What the page holds of dreams, and which dreams it shows."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from viewed import DRIFT, NUM_CONTEXT, NUM_FRAMES, columns_of, drifting, viewed

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex, read_games
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.model.encoding import position_errors
from wm.rollout.baselines import stand_still
from wm.rollout.dreams import Dreams
from wm.rollout.events import EVENTS, event_of
from wm.rollout.starts import random_starts
from wm.viewer.choice import EVENT_FRAMES, KINDS, interesting_dreams
from wm.viewer.data import NUM_SHOWN_CONTEXT, ViewedDream, page_data, viewed_dream
from wm.viewer.geometry import FOUNTAIN, FOUNTAIN_AT_REST
from wm.viewer.page import render_viewer

START = 400
MAX_PAGE_BYTES = 2_000_000


def decoded(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_page_holds_the_frames_of_the_game_and_of_the_dream(index):
    data = json.loads(json.dumps(page_data([viewed(index, 0, START)])))
    (dream,) = data["dreams"]
    whole = read_games(index, [0])
    first = START - NUM_CONTEXT
    truth = decoded(dream["truth"]["floats"], "<f4").reshape(-1, 2, len(FLOAT_COLUMNS))
    codes = decoded(dream["truth"]["codes"], "<i2").reshape(-1, 2, len(CODE_COLUMNS))
    assert np.array_equal(truth, whole.floats[first : START + NUM_FRAMES])
    assert np.array_equal(codes, whole.codes[first : START + NUM_FRAMES])
    imagined = decoded(dream["dream"]["floats"], "<f4").reshape(-1, 2, len(FLOAT_COLUMNS))
    moved = imagined[..., 0] - truth[NUM_CONTEXT:, :, 0]
    np.testing.assert_allclose(moved, DRIFT * np.arange(1, NUM_FRAMES + 1)[:, None].repeat(2, 1), atol=1e-3)
    assert dream["positionError"] == pytest.approx(DRIFT / 2 * np.arange(1, NUM_FRAMES + 1), abs=2e-3)
    assert dream["firstFrame"] == START - COUNTDOWN_FRAMES
    assert (dream["numContext"], dream["numFrames"]) == (NUM_CONTEXT, NUM_FRAMES)
    assert data["floats"] == list(FLOAT_COLUMNS) and data["codes"] == list(CODE_COLUMNS)


def test_a_page_of_twenty_seconds_is_smaller_than_two_megabytes(index):
    longest = int(np.argmax(index.num_frames))
    num_frames = 1_200
    assert index.num_frames[longest] > START + num_frames
    dream = viewed_dream(index, drifting(index, longest, START, num_frames), 0, "dream")
    page = render_viewer([dream], title="t", subtitle="s", about="a")
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_a_long_context_is_cut_to_its_last_second(index):
    found = drifting(index, 0, START)
    longer = torch.cat([found.context.floats, found.context.floats], dim=1)
    codes = torch.cat([found.context.codes, found.context.codes], dim=1)
    cut = viewed_dream(index, replace(found, context=replace(found.context, floats=longer, codes=codes)), 0, "x")
    assert cut.num_context == NUM_SHOWN_CONTEXT
    assert torch.equal(cut.truth.floats[:, :NUM_CONTEXT], found.context.floats)


def error_beside_still(dream: ViewedDream) -> float:
    """Position error of a dream, in those of standing still, which count as at least one game unit."""
    context, truth = (
        dream.truth.slice(0, dream.num_context),
        dream.truth.slice(dream.num_context, dream.truth.num_frames),
    )
    still = position_errors(stand_still(context, truth), truth).mean().item()
    return position_errors(dream.imagined, truth).mean().item() / max(still, 1.0)


def test_the_page_shows_of_each_kind_the_median_the_best_and_the_worst_dream(index):
    starts = random_starts(index, 60, num_context=NUM_CONTEXT, num_frames=NUM_FRAMES, seed=5)
    places = zip(starts.games.tolist(), starts.frames.tolist(), strict=True)
    batches: list[Dreams] = [drifting(index, game, frame) for game, frame in places]
    shown = interesting_dreams(index, batches)
    labels = [dream.label for dream in shown]
    assert len(labels) == len(set(labels)) >= 4
    beside_still = {dream.label: error_beside_still(dream) for dream in shown}
    assert beside_still["neutral, worst"] > beside_still["neutral, typical"] > beside_still["neutral, best"]
    for dream in shown:
        kind, word = dream.label.split(", ")
        assert kind in KINDS and word in ("typical", "best", "worst")
        after = dream.truth.slice(dream.num_context, dream.num_context + EVENT_FRAMES)
        (event,) = event_of(dream.truth.slice(0, dream.num_context), after)
        assert EVENTS[event] in KINDS[kind]
        if kind == "death":
            stocks = dream.truth.code_column("stocks")[0]
            assert (stocks[dream.num_context - 1] > stocks[dream.num_context + EVENT_FRAMES - 1]).any()
    assert [dream.first_frame for dream in shown] == [dream.first_frame for dream in interesting_dreams(index, batches)]


def fountain_game(index: GameIndex) -> int:
    games = np.flatnonzero(index.facts[:, 0] == FOUNTAIN)
    if not len(games):
        pytest.skip("no game of these is on Fountain of Dreams")
    return int(games[0])


def test_the_platforms_of_fountain_are_as_high_as_the_players_who_stand_on_them(index):
    game = fountain_game(index)
    assert viewed(index, int(np.flatnonzero(index.facts[:, 0] != FOUNTAIN)[0])).platforms is None
    stood = 0
    for frame in range(200, int(index.num_frames[game]) - NUM_FRAMES, NUM_FRAMES):
        dream = viewed(index, game, frame)
        assert dream.platforms is not None and dream.platforms.shape == (2, dream.truth.num_frames)
        assert np.isfinite(dream.platforms).all()
        ground, airborne, y = (columns_of(dream.truth, name) for name in ("ground", "airborne", "y"))
        for side in (0, 1):
            stands = (ground == side) & (airborne == 0)
            if not stands.any():
                assert (dream.platforms[side] == FOUNTAIN_AT_REST).all()
            only = stands.sum(1) == 1
            np.testing.assert_allclose(dream.platforms[side][only], y[only][stands[only]])
            stood += int(only.sum())
    assert stood > 0
