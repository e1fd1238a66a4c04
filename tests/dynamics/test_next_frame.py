"""A prediction becomes a frame that the game could show, and a perfect prediction becomes the true frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, index_games, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.schema.splits import SplitConfig
from datasets.synth.stages import STAGES
from wm.data.augment import mirror
from wm.model.animation import FIRST_AGES, age_table
from wm.model.dynamics.clocks import HISTORY, clock_of_each, clock_of_last
from wm.model.dynamics.deaths import DEAD_DOWN, DEATHS_ABOVE, FALL, REBIRTH, REBIRTH_WAIT
from wm.model.dynamics.imagination import controller_columns
from wm.model.dynamics.next_frame import ActionClock, GameRules
from wm.model.dynamics.sampling import Sampling
from wm.model.dynamics.stage_rules import BLAST_ZONES, RESPAWN_HEIGHTS, RESPAWN_X
from wm.model.encoding import EMBEDDINGS, Frames, to_frames
from wm.model.heads import BINARIES, CATEGORIES, DELTAS, DYNAMICS, VELOCITIES, Prediction
from wm.model.state_fields import FLAGS, flags_of
from wm.objective.losses import ground_truth
from wm.rollout.starts import Starts, read_frames

BATTLEFIELD = 31
SURE = 50.0
"""Logit of a certain category."""
WARM_UP = 60
TOLERANCES = {"state_age": 1.0, "y": 0.2, "self_y": 0.2}
"""Largest error that counts as none: a respawn platform swings by 0.17 when it stops."""


def stretch(index: GameIndex, games: np.ndarray, first: int, num_frames: int) -> Frames:
    """The same frames of some games."""
    arrays = read_games(index, games)
    starts = np.cumsum(index.num_frames[games]) - index.num_frames[games] + COUNTDOWN_FRAMES + first
    return to_frames(take_rows(arrays, index.facts[games], starts[:, None] + np.arange(num_frames)))


def alone(values: torch.Tensor) -> torch.Tensor:
    """(B, T, ...) -> (B * T, 1, ...)."""
    return values.flatten(0, 1)[:, None]


def each_alone(frames: Frames) -> Frames:
    """Every frame as a sequence of its own."""
    game = frames.game.repeat_interleave(frames.num_frames, 0)
    return Frames(floats=alone(frames.floats), codes=alone(frames.codes), game=game)


def perfect_prediction(before: Frames, after: Frames) -> Prediction:
    """What a network that knows the next frame says."""
    truth = ground_truth(before, after)
    return Prediction(
        deltas=truth.deltas,
        velocities=truth.velocities,
        dynamics=truth.dynamics,
        binaries=SURE * (2 * truth.binaries - 1),
        categories={name: SURE * F.one_hot(truth.categories[name], EMBEDDINGS[name][0]).float() for name in CATEGORIES},
    )


def with_state(prediction: Prediction, before: Frames, after: Frames) -> Prediction:
    """The same from a network that also knows hitstun, animation and flags."""
    ages = before.float_column("state_age"), after.float_column("state_age")
    same = before.code_column("action") == after.code_column("action")
    restarts = same & (ages[1] < ages[0])
    first = ages[1] - torch.tensor(FIRST_AGES)[after.code_column("action").clamp(max=len(FIRST_AGES) - 1)]
    return replace(
        prediction,
        hitstun=after.float_column("hitstun"),
        animation=torch.stack([SURE * (2 * restarts.float() - 1), ages[1] - ages[0], first], dim=-1),
        flags=SURE * (2 * flags_of(after, len(FLAGS)) - 1),
    )


def random_prediction(frame: Frames, generator: torch.Generator) -> Prediction:
    """Nonsense of a plausible size."""
    shape = frame.floats.shape[:3]

    def noise(size: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(*shape, size, generator=generator)

    return Prediction(
        deltas=noise(len(DELTAS), 8.0),
        velocities=noise(len(VELOCITIES), 5.0),
        dynamics=noise(len(DYNAMICS), 20.0),
        binaries=noise(len(BINARIES), 3.0),
        categories={name: noise(EMBEDDINGS[name][0], 3.0) for name in CATEGORIES},
    )


def without_change(frame: Frames) -> Prediction:
    """Everything stays."""
    return perfect_prediction(frame, frame)


def with_columns(frame: Frames, player: int, **values: float) -> Frames:
    """A copy in which some columns of a player have other values."""
    floats, codes = frame.floats.clone(), frame.codes.clone()
    for name, value in values.items():
        if name in FLOAT_COLUMNS:
            floats[:, :, player, FLOAT_COLUMNS.index(name)] = value
        else:
            codes[:, :, player, CODE_COLUMNS.index(name)] = int(value)
    return replace(frame, floats=floats, codes=codes)


def still_clock(frame: Frames) -> ActionClock:
    return ActionClock(speed=torch.ones(frame.floats.shape[:3]), frames=torch.full(frame.floats.shape[:3], 5))


def follow(rules: GameRules, frame: Frames, num_frames: int, predict: Callable[[Frames], Prediction]) -> Frames:
    """Feed predictions back for some frames."""
    clock, frames = still_clock(frame), []
    for _ in range(num_frames):
        frame, clock = rules(frame, clock, predict(frame), controller_columns(frame))
        frames.append(frame)
    return replace(
        frame, floats=torch.cat([f.floats for f in frames], 1), codes=torch.cat([f.codes for f in frames], 1)
    )


@pytest.fixture(scope="module")
def frame(index: GameIndex) -> Frames:
    """One frame of some games with players in the middle of the stage."""
    found = stretch(index, np.arange(min(8, len(index))), 300, 1)
    for player in (0, 1):
        found = with_columns(found, player, x=10.0 * player, y=20.0, action=29, stocks=3, hitlag=0.0)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_predicted_the_frames_are_possible(frame: Frames, seed: int):
    generator = torch.Generator().manual_seed(seed)
    dream = follow(GameRules(), frame, 600, lambda last: random_prediction(last, generator))
    action, stocks = dream.code_column("action"), dream.code_column("stocks")
    percent = dream.float_column("percent")
    assert dream.floats.isfinite().all()
    assert (stocks.diff(dim=1) <= 0).all()
    assert (stocks >= 0).all()
    assert (stocks[:, 0] > stocks[:, -1]).any(), "nobody died"
    fell = percent.diff(dim=1) < 0
    assert (action[:, 1:][fell] == REBIRTH).all()
    assert ((percent >= 0) & (percent <= 999)).all()
    shield = dream.float_column("shield")
    assert ((shield >= 0) & (shield <= 60)).all()
    hitlag = dream.float_column("hitlag")
    assert (hitlag == hitlag.round()).all()
    assert (hitlag.diff(dim=1) >= -1)[action[:, 1:] > REBIRTH_WAIT].all()
    for name in ("action", "jumps", "l_cancel", "hurtbox", "last_attack"):
        values = dream.code_column(name)
        assert ((values >= 0) & (values < EMBEDDINGS[name][0])).all(), name
    grounded = dream.code_column("airborne") == 0
    assert (dream.code_column("ground")[grounded] >= 0).all()
    assert set(dream.code_column("facing").unique().tolist()) <= {-1, 1}


def test_beyond_every_blast_zone_is_death_and_nowhere_else(frame: Frames):
    rules = GameRules()
    stage = int(frame.game[0, 0])
    left, right, low, high = BLAST_ZONES[stage]
    for (x, y), expected in {
        (left - 1, 0.0): 1, (right + 1, 0.0): 2, (0.0, low - 1): 0, (left + 1, low + 1): 29, (0.0, high + 1): 29,
    }.items():  # fmt: skip
        at = with_columns(frame.examples(0, 1), 0, x=x, y=y)
        after, _ = rules(at, still_clock(at), without_change(at), controller_columns(at))
        assert after.code_column("action")[0, 0, 0] == expected, (x, y)
        assert after.code_column("stocks")[0, 0].tolist() == [2 if expected < 3 else 3, 3]


@pytest.mark.parametrize(
    ("knockback", "has_velocity", "wants_to_die", "dies"),
    [(2.5, 1, False, True), (2.3, 1, True, False), (0.0, 0, True, True), (0.0, 0, False, False)],
    ids=["launched", "jumped", "the network says so", "the network says no"],
)
def test_above_the_upper_blast_zone_knockback_kills_and_without_velocities_the_network_decides(
    frame: Frames, knockback: float, has_velocity: int, wants_to_die: bool, dies: bool
):
    high = BLAST_ZONES[int(frame.game[0, 0])][3]
    at = with_columns(frame.examples(0, 1), 0, x=0.0, y=high + 1, attack_y=knockback)
    game = at.game.clone()
    game[:, GAME_COLUMNS.index("has_velocity")] = has_velocity
    at = replace(at, game=game)
    prediction = without_change(at)
    action = prediction.categories["action"].clone()
    action[..., DEATHS_ABOVE[0]] = 1e4 if wants_to_die else -1e4
    action[..., DEATHS_ABOVE[1]] = -2e4
    said = replace(prediction, categories=prediction.categories | {"action": action})
    after, _ = GameRules()(at, still_clock(at), said, controller_columns(at))
    assert (after.code_column("action")[0, 0, 0] == DEATHS_ABOVE[0]) == dies


def test_a_death_takes_sixty_frames_and_the_respawn_resets_the_player(frame: Frames):
    low = BLAST_ZONES[int(frame.game[0, 0])][2]
    falls = with_columns(frame.examples(0, 1), 0, y=low - 1, percent=120.0, shield=20.0, last_attack=5, combo=3)
    dream = follow(GameRules(), falls, 130, without_change)
    action = dream.code_column("action")[0, :, 0]
    assert action[:60].tolist() == [DEAD_DOWN] * 60
    assert action[60:120].tolist() == [REBIRTH] * 60
    assert action[120] == REBIRTH_WAIT
    assert dream.code_column("stocks")[0, :, 0].tolist() == [2] * 130
    assert dream.float_column("percent")[0, 59:61, 0].tolist() == [120.0, 0.0]
    assert dream.float_column("shield")[0, 60, 0] == 60.0
    assert dream.code_column("combo")[0, 60, 0] == dream.code_column("last_attack")[0, 60, 0] == 0
    height = dream.float_column("y")[0, :, 0]
    assert (height[:60] == height[0]).all()
    assert (height[60:120].diff() < 0).all()
    assert (height[120:] == height[119]).all()


def test_a_player_may_leave_a_respawn_in_its_last_frame_and_not_before(frame: Frames):
    low = BLAST_ZONES[int(frame.game[0, 0])][2]
    falls = with_columns(frame.examples(0, 1), 0, y=low - 1)

    def leaving(last: Frames) -> Prediction:
        """Wants to fall in every frame."""
        said = without_change(last)
        said.categories["action"][..., FALL] = 2 * SURE
        return said

    action = follow(GameRules(), falls, 122, leaving).code_column("action")[0, :, 0].tolist()
    assert action == [DEAD_DOWN] * 60 + [REBIRTH] * 60 + [FALL] * 2


@pytest.mark.parametrize("stage", sorted(RESPAWN_HEIGHTS))
@pytest.mark.parametrize("port", [1, 2, 3, 4])
def test_a_mirrored_death_is_the_mirror_image_of_the_death(frame: Frames, stage: int, port: int):
    game = frame.game.clone()
    game[:, GAME_COLUMNS.index("stage")] = stage
    game[:, GAME_COLUMNS.index("p0_port")] = port
    falls = with_columns(replace(frame, game=game), 0, y=BLAST_ZONES[stage][2] - 1)
    dream = follow(GameRules(), falls, 130, without_change)
    mirrored = mirror(follow(GameRules(), mirror(falls), 130, without_change))
    x = RESPAWN_X[stage][port - 1] if stage in RESPAWN_X else 0.0
    assert (dream.float_column("x")[:, 70, 0] == x).all()
    assert (dream.code_column("facing")[:, 70, 0] == (1 if x < 0 else -1)).all()
    torch.testing.assert_close(mirrored.floats, dream.floats)
    assert torch.equal(mirrored.codes, dream.codes)


def test_without_ports_players_come_back_where_ports_1_and_2_do(frame: Frames):
    game = frame.game.clone()
    game[:, GAME_COLUMNS.index("stage")] = BATTLEFIELD
    game[:, -2:] = 0
    for player in (0, 1):
        falls = with_columns(replace(frame, game=game), player, y=BLAST_ZONES[BATTLEFIELD][2] - 1)
        x = follow(GameRules(), falls, 70, without_change).float_column("x")[:, -1, player]
        assert (x == RESPAWN_X[BATTLEFIELD][player]).all()


def test_whoever_dies_is_neither_in_hitlag_nor_in_hitstun_by_any_column(frame: Frames):
    low = BLAST_ZONES[int(frame.game[0, 0])][2]
    hit = with_columns(frame.examples(0, 1), 0, y=low - 1, hitstun=40.0, hitlag=5.0)
    hit = replace(hit, game=hit.game.clamp(min=1))  # it records every field
    after, _ = GameRules()(hit, still_clock(hit), without_change(hit), controller_columns(hit))
    assert after.float_column("hitstun")[0, 0, 0] == after.float_column("hitlag")[0, 0, 0] == 0.0
    for name in ("in_hitstun", "in_hitlag"):
        column, mask = FLAGS[name]
        assert after.code_column(column)[0, 0, 0] & mask == 0


def test_an_action_beyond_the_categories_goes_on_while_its_category_does(frame: Frames):
    last_category = EMBEDDINGS["action"][0] - 1
    at = with_columns(frame.examples(0, 1), 0, action=last_category + 13, state_age=7.0)
    same, clock = GameRules()(at, still_clock(at), without_change(at), controller_columns(at))
    assert same.code_column("action")[0, 0, 0] == last_category + 13
    assert same.float_column("state_age")[0, 0, 0] == 8.0 and clock.frames[0, 0, 0] == 6


def test_the_last_death_has_no_respawn(frame: Frames):
    low = BLAST_ZONES[int(frame.game[0, 0])][2]
    falls = with_columns(frame.examples(0, 1), 0, y=low - 1, stocks=1)
    dream = follow(GameRules(), falls, 200, without_change)
    assert (dream.code_column("action")[0, :, 0] == DEAD_DOWN).all()
    assert (dream.code_column("stocks")[0, :, 0] == 0).all()


def test_two_heads_that_contradict_each_other_give_one_hurtbox(frame: Frames):
    at = frame.examples(0, 1)
    at = replace(at, game=at.game.clamp(min=1))
    for hurtbox_logit, invulnerable_logit, expected in ((5.0, -9.0, 0), (5.0, -1.0, 2), (-3.0, 9.0, 1)):
        prediction = without_change(at)
        logits = torch.zeros_like(prediction.categories["hurtbox"])
        logits[..., 2], logits[..., 1] = hurtbox_logit, hurtbox_logit - 1 if expected == 2 else 0.0
        binaries = prediction.binaries.clone()
        binaries[..., 1] = invulnerable_logit
        said = replace(prediction, binaries=binaries, categories=prediction.categories | {"hurtbox": logits})
        after, _ = GameRules()(at, still_clock(at), said, controller_columns(at))
        assert (after.code_column("hurtbox") == expected).all()


def test_age_goes_on_stands_still_in_hitlag_and_begins_anew(frame: Frames):
    rules, at = GameRules(), with_columns(frame.examples(0, 1), 0, action=66, state_age=7.0)
    clock = replace(still_clock(at), speed=torch.full((1, 1, 2), 1.5))

    def age(last: Frames, prediction: Prediction) -> float:
        after, _ = rules(last, clock, prediction, controller_columns(last))
        return float(after.float_column("state_age")[0, 0, 0])

    assert age(at, without_change(at)) == 8.5
    held = with_columns(at, 0, hitlag=2.0)
    assert age(held, without_change(held)) == 7.0
    assert age(at, perfect_prediction(at, with_columns(at, 0, action=69))) == 1.0
    assert age(at, perfect_prediction(at, with_columns(at, 0, action=14))) == 0.0


def test_sampling_follows_its_seed_and_its_temperature(frame: Frames):
    prediction = random_prediction(frame, torch.Generator().manual_seed(0))

    def actions(temperature: float, seed: int) -> list[int]:
        sampling = Sampling(temperatures={"action": temperature}, generator=torch.Generator().manual_seed(seed))
        after, _ = GameRules(sampling)(frame, still_clock(frame), prediction, controller_columns(frame))
        return after.code_column("action").flatten().tolist()

    most_probable = actions(0.0, 1)
    assert actions(1.0, 1) == actions(1.0, 1) != actions(1.0, 2)
    assert actions(1e-3, 1) == most_probable != actions(1.0, 1)
    with pytest.raises(ValueError, match="invulnerable is not sampled"):
        Sampling(temperatures={"invulnerable": 1.0})
    with pytest.raises(ValueError, match="percent is not sampled"):
        Sampling(temperatures={"percent": 1.0})


def test_values_are_drawn_with_their_probabilities():
    sampling = Sampling(temperatures={"jumps": 2.0}, generator=torch.Generator().manual_seed(0))
    logits = torch.tensor([0.0, 3.0, -torch.inf, -1.0])
    drawn = sampling.category("jumps", logits.expand(40_000, 4))
    expected = (logits / 2.0).softmax(-1)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares[2] == 0.0
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()


def test_stages_have_the_blast_zones_of_the_simulation():
    assert {stage.stage_id: stage.blast for stage in STAGES} == BLAST_ZONES


@pytest.mark.parametrize("encoding", [3, 4])
@pytest.mark.parametrize("records_all", [True, False], ids=["every field", "old replays"])
def test_a_perfect_prediction_becomes_the_true_frame_of_real_games(dev_corpus: Path, encoding: int, records_all: bool):
    index = index_games(open_corpus(dev_corpus), "all", SplitConfig())
    is_long = index.num_frames >= COUNTDOWN_FRAMES + 2_000
    games = np.flatnonzero((index.facts[:, 1:].all(axis=1) == records_all) & is_long)[:8]
    assert len(games) == 8
    truth = stretch(index, games, 0, 2_000)
    clocks = clock_of_each(truth, age_table(), keeps_speed=encoding == 4)
    first, end = WARM_UP - 1, truth.num_frames - 1
    clock = ActionClock(speed=alone(clocks.speed[:, first:end]), frames=alone(clocks.frames[:, first:end]))
    before, after = each_alone(truth.slice(first, end)), each_alone(truth.slice(first + 1, end + 1))
    knows = perfect_prediction(before, after)
    knows = with_state(knows, before, after) if encoding == 4 else knows
    said, _ = GameRules()(before, clock, knows, controller_columns(after))
    right = {name: said.code_column(name) == after.code_column(name) for name in CODE_COLUMNS}
    for name in FLOAT_COLUMNS:
        right[name] = (said.float_column(name) - after.float_column(name)).abs() < TOLERANCES.get(name, 1e-3)
    shares = {name: float(values.float().mean()) for name, values in right.items()}
    # By rule an age stands still in hitlag, which most old replays do not record.
    assert shares.pop("state_age") > (0.99 if encoding == 4 else 0.97 if records_all else 0.965)
    if encoding == 3:  # which predicts none of these
        for name in ("hitstun", "last_hit_by", "flags_0", "flags_1", "flags_2", "flags_3", "flags_4"):
            shares.pop(name)
    assert shares.pop("ground") > 0.995  # the encoding has one category for all surfaces of Pokémon Stadium
    low = {name: share for name, share in shares.items() if share < 0.999}
    assert low == {}, low


def test_hitstun_falls_by_one_unless_another_number_is_predicted(frame):
    last = with_columns(frame, 0, hitstun=12, hitlag=0)
    assert bool(last.present("state_flags").all())
    known = with_state(without_change(last), last, last)
    rules = GameRules()
    for predicted, expected in ((11.3, 11), (10.6, 11), (25.4, 25), (0.2, 0), (-4.0, 0)):
        said = replace(known, hitstun=torch.full_like(known.hitstun, predicted))
        after, _ = rules(last, still_clock(last), said, controller_columns(last))
        assert after.float_column("hitstun")[..., 0].unique().tolist() == [expected]
        assert bool(((after.code_column("flags_3")[..., 0] & 2 != 0) == (expected > 0)).all())


def test_nobody_falls_fast_on_the_ground(frame):
    last = with_columns(frame, 0, airborne=0, ground=1, flags_1=0)
    fast_fall = torch.full((*last.floats.shape[:3], 1), SURE)
    for airborne in (0, 1):
        after = with_columns(last, 0, airborne=airborne)
        said = replace(perfect_prediction(last, after), flags=fast_fall)
        found, _ = GameRules()(last, still_clock(last), said, controller_columns(last))
        falls = (found.code_column("flags_1")[..., 0] & 0x08) != 0
        assert bool((falls == bool(airborne)).all())


def test_an_action_that_begins_again_begins_at_its_first_age(frame):
    last = with_columns(frame, 0, action=44, state_age=9.0, hitlag=0)
    known = with_state(without_change(last), last, with_columns(last, 0, state_age=1.0))
    after, clock = GameRules()(last, still_clock(last), known, controller_columns(last))
    assert after.float_column("state_age")[..., 0].unique().tolist() == [1.0]
    assert clock.speed[..., 0].unique().tolist() == [1.0]


def test_a_speed_near_the_observed_one_is_the_observed_one(frame):
    last = with_columns(frame, 0, action=44, state_age=9.0, hitlag=0)
    known = with_state(without_change(last), last, last)
    clock = replace(still_clock(last), speed=torch.full(last.floats.shape[:3], 1.25))
    for predicted, expected in ((1.3, 1.25), (1.15, 1.25), (0.05, 0.0), (2.5, 2.5)):
        animation = torch.tensor([-SURE, predicted, 0.0]).expand_as(known.animation)
        after, _ = GameRules()(last, clock, replace(known, animation=animation), controller_columns(last))
        assert after.float_column("state_age")[..., 0].unique().tolist() == [9.0 + expected]


@pytest.mark.usefixtures("dev_corpus")  # of which `index` is then
def test_deaths_and_respawns_that_began_long_before_end_in_time(index, whole_games):
    long_ago = 20
    games, places, players = [], [], []
    for game, arrays in enumerate(whole_games):
        action = arrays.codes[..., CODE_COLUMNS.index("action")]
        scripted = (action < REBIRTH_WAIT) & (action == np.roll(action, long_ago, axis=0))
        scripted[: COUNTDOWN_FRAMES + HISTORY] = scripted[-2 * HISTORY :] = False
        for place, player in np.argwhere(scripted)[::97]:
            games.append(game)
            places.append(place)
            players.append(player)
    starts = Starts(games=np.array(games), frames=np.array(places), num_context=1, num_frames=HISTORY)
    frames = read_frames(index, starts, torch.device("cpu"), HISTORY)
    rules, ages, rows, chosen = GameRules(), age_table(), torch.arange(len(games)), torch.tensor(players)
    assert len(games) > 100

    def share_right(num_known: int) -> float:
        """Of the players in a death or a respawn, whose action and stocks are right in every frame."""
        clock = clock_of_last(frames.slice(HISTORY - num_known, HISTORY), ages)
        last, right = frames.slice(HISTORY - 1, HISTORY), torch.ones(len(games), dtype=torch.bool)
        for t in range(HISTORY, HISTORY + 60):
            before, after = frames.slice(t - 1, t), frames.slice(t, t + 1)
            last, clock = rules(last, clock, perfect_prediction(before, after), controller_columns(after))
            for name in ("action", "stocks"):
                right &= (last.code_column(name) == after.code_column(name))[rows, 0, chosen]
        return float(right.float().mean())

    assert share_right(1) < share_right(60) < share_right(HISTORY)
    assert share_right(HISTORY) > 0.97
