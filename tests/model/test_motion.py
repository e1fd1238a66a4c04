"""Candidates of motion: the rules in numbers worked out by hand, the choice among them, and dreams that use it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from datasets.loading.targets import COUNTDOWN_FRAMES
from wm.config.model_config import ModelConfig
from wm.model.dynamics.imagination import Imagination, controller_columns
from wm.model.dynamics.next_frame import GameRules
from wm.model.encoding import Frames, controllers, positions, to_frames
from wm.model.motion.candidates import (
    MODES,
    MOTION,
    NUM_MODES,
    NUM_VELOCITIES,
    Physics,
    mode_mask,
    motion_values,
    total_velocity,
)
from wm.model.motion.choice import MotionPrediction, modes_of
from wm.model.world_model import build_model
from wm.objective.losses import training_loss_parts

FOX, UNKNOWN_CHARACTER = 1, 32
BATTLEFIELD, FINAL_DESTINATION, UNKNOWN_STAGE = 31, 32, 16
SIN_18, COS_18 = math.sin(math.radians(18)), math.cos(math.radians(18))
DRIFT = 0.05
"""Of a dream's x and y, game units."""
PHYSICS = ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16, physics=True, scan_backend="torch")


def game(rows: list[dict[str, float]], *, has_velocity: bool = True, stage: int = FINAL_DESTINATION) -> Frames:
    """Frames in which both players are the same: columns by name, 0 where not given."""
    floats = torch.zeros(1, len(rows), 2, len(FLOAT_COLUMNS))
    codes = torch.zeros(1, len(rows), 2, len(CODE_COLUMNS), dtype=torch.int16)
    codes[..., CODE_COLUMNS.index("character")] = FOX
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name in FLOAT_COLUMNS:
                floats[:, number, :, FLOAT_COLUMNS.index(name)] = value
            else:
                codes[:, number, :, CODE_COLUMNS.index(name)] = int(value)
    facts = torch.zeros(1, len(GAME_COLUMNS), dtype=torch.int16)
    facts[:, 0] = stage
    facts[:, GAME_COLUMNS.index("has_velocity")] = int(has_velocity)
    return Frames(floats=floats, codes=codes, game=facts)


def next_values(rows: list[dict[str, float]], number: str, mode: str, **options: Any) -> float:
    """A number after the last but one frame by a candidate; of the last frame only the controllers count."""
    frames = game(rows, **options)
    candidates, _ = Physics()(frames.slice(0, len(rows) - 1), controllers(frames.slice(1, len(rows))), None)
    at = MOTION.index(number)
    change = candidates.changes[0, -1, 0, at, MODES[number].index(mode)]
    return float(candidates.values[0, -1, 0, at] + change)


@pytest.mark.parametrize(
    ("velocity", "expected"),
    [(3.68, 3.45), (0.1, -0.13), (-2.7, -2.8), (-2.8, -2.8), (-3.4, -3.4)],
    ids=["rises", "turns", "reaches the fall speed", "falls at it", "falls fast"],
)
def test_gravity_pulls_fox_down_to_his_fall_speed(velocity, expected):
    rows = [{"self_y": velocity, "airborne": 1}, {}]
    assert next_values(rows, "self_y", "gravity") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("velocity", "stick", "expected"),
    [
        (0.0, 80, 0.08), (0.0, 40, 0.05), (0.5, 0, 0.48), (0.01, 0, 0.0), (0.5, 20, 0.48),
        (0.8, 80, 0.83), (1.5, 80, 1.48), (0.5, -80, 0.42), (-1.5, -80, -1.48), (0.6, 40, 0.58),
    ],
    ids=[
        "full stick", "half stick", "friction", "friction ends at 0", "inside of the dead zone", "largest speed",
        "beyond the largest speed", "against the motion", "beyond it to the left", "beyond a share of it",
    ],
)  # fmt: skip
def test_fox_drifts_in_the_air_as_in_the_game(velocity, stick, expected):
    rows = [{"self_air_x": velocity, "airborne": 1}, {"main_x": stick}]
    assert next_values(rows, "self_air_x", "drift") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("number", "mode", "now", "next_frame", "expected"),
    [
        ("self_y", "full_hop", {}, {}, 3.68),
        ("self_y", "short_hop", {}, {}, 2.1),
        ("self_y", "double_jump", {"self_y": -2.0}, {}, 4.186),
        ("self_y", "fast_fall", {"self_y": -1.0}, {}, -3.4),
        ("self_y", "air_dodge", {}, {"main_x": 40, "main_y": -40}, -2.79 / 2**0.5),
        ("self_air_x", "air_dodge", {}, {"main_x": 40, "main_y": -40}, 2.79 / 2**0.5),
        ("self_air_x", "slowed", {"self_air_x": 2.0}, {}, 1.8),
        ("self_air_x", "jump", {"self_ground_x": 1.0, "main_x": 80}, {}, 0.83 + 0.72),
        ("self_air_x", "jump", {"self_ground_x": 2.0, "main_x": 80}, {}, 1.7),
        ("self_air_x", "double_jump", {"self_air_x": -1.0}, {"main_x": 80}, 0.88),
        ("self_ground_x", "traction", {"self_ground_x": 1.0}, {}, 0.92),
        ("self_ground_x", "twice_traction", {"self_ground_x": -0.1}, {}, 0.0),
        ("self_ground_x", "dash", {"self_ground_x": 1.9}, {"main_x": 80}, 2.02),
        ("self_ground_x", "dash_start", {}, {"main_x": -80}, -1.9),
        ("self_ground_x", "dash_start", {"self_ground_x": 0.4}, {"main_x": -80}, -1.5),
        ("attack_x", "decay", {"attack_x": 3.0, "attack_y": 4.0}, {}, 3.0 * (1 - 0.051 / 5)),
        ("attack_y", "decay", {"attack_y": 0.03}, {}, 0.0),
        ("y", "surface", {"y": 1.5}, {}, 0.0),
        ("self_y", "zero", {"self_y": -2.0}, {}, 0.0),
        ("self_air_x", "run_off", {"self_ground_x": -2.2}, {}, -0.83),
        ("self_air_x", "run_off", {"self_ground_x": 0.5}, {}, 0.42),
        ("self_ground_x", "dash_end", {"self_ground_x": 2.12}, {}, 0.45),
        ("self_ground_x", "air_dodge", {}, {"main_x": 40, "main_y": -40}, 2.79 / 2**0.5),
        ("attack_x", "traction", {"attack_x": -0.8}, {}, -0.72),
        ("attack_x", "trajectory_di", {"attack_y": 2.0, "main_x": 80}, {}, (2 - 0.051) * SIN_18),
        ("attack_y", "trajectory_di", {"attack_y": 2.0, "main_x": 80}, {}, (2 - 0.051) * COS_18),
        ("attack_x", "trajectory_di", {"attack_y": 2.0}, {"main_x": 80}, 0.0),
        ("attack_y", "trajectory_di", {"attack_x": 2.0, "main_x": 80}, {}, 0.0),
        ("x", "smash_di", {"x": 10.0, "main_x": 80}, {"main_x": -40}, 7.0),
        ("y", "automatic_smash_di", {"y": 10.0, "main_y": 40}, {"main_y": -80}, 11.5),
        ("y", "automatic_smash_di", {"y": 10.0, "main_y": 40, "c_y": -80}, {}, 7.0),
    ],
)  # fmt: skip
def test_candidates_are_what_foxs_attributes_say(number, mode, now, next_frame, expected):
    assert next_values([now, next_frame], number, mode) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("now", "place"),
    [
        ({"action": 29, "x": -80.0}, (-68.4 - 4.696, -13.475)),
        ({"action": 252, "state_age": 1.0, "x": 73.0}, (68.4 + 4.418, -13.568)),
        ({"action": 252, "state_age": 7.0, "x": 70.0}, (68.4 + 1.92, -14.4)),
        ({"action": 253, "state_age": 30.0, "x": 70.0}, (68.4 + 1.92, -14.4)),
    ],
    ids=["catches it", "second frame", "last frame", "hangs"],
)
def test_fox_hangs_on_the_ledge_of_battlefield_where_the_animation_puts_him(now, place):
    for name, expected in zip("xy", place, strict=True):
        assert next_values([now, {}], name, "ledge", stage=BATTLEFIELD) == pytest.approx(expected, abs=1e-4)
        assert next_values([now | {"y": 3.0}, {}], name, "ledge", stage=UNKNOWN_STAGE) == pytest.approx(
            {"x": now["x"], "y": 3.0}[name]
        )


def test_a_change_is_repeated_but_not_a_jump_nor_beyond_a_stop_or_the_fastest_fall():
    assert next_values([{"attack_x": 1.0}, {"attack_x": 0.9}, {}], "attack_x", "repeated") == pytest.approx(0.8)
    assert next_values([{"attack_x": 0.3}, {"attack_x": 0.1}, {}], "attack_x", "repeated") == pytest.approx(0.0)
    assert next_values([{}, {"self_y": 3.68}, {}], "self_y", "repeated") == pytest.approx(3.68)
    assert next_values([{"self_y": -3.1}, {"self_y": -3.3}, {}], "self_y", "repeated") == pytest.approx(-3.4)


def test_a_character_without_attributes_keeps_the_candidates_that_need_none():
    rows = [{"self_y": -1.0, "character": UNKNOWN_CHARACTER}, {"self_y": -1.1, "character": UNKNOWN_CHARACTER}, {}]
    assert next_values(rows, "self_y", "repeated") == pytest.approx(-1.2)
    assert next_values(rows, "self_y", "gravity") == pytest.approx(-1.1)


def test_without_velocities_the_displacement_stands_for_them():
    rows = [{"x": 0.0, "y": 30.0}, {"x": 0.5, "y": 29.0, "airborne": 1}, {"main_x": 0}]
    assert next_values(rows, "self_y", "gravity", has_velocity=False) == pytest.approx(-1.23)
    assert next_values(rows, "self_air_x", "air_friction", has_velocity=False) == pytest.approx(0.48)
    assert next_values(rows, "attack_x", "same", has_velocity=False) == 0


def sure_of(*, airborne: bool = False, **modes: str) -> MotionPrediction:
    """A choice that is sure of some modes and of `same` for other numbers, in a player who moves."""
    values = torch.tensor([0.5, 1.0, 0.4, 0.2, -0.1, 10.0, 20.0]).view(1, 1, 1, -1)
    logits = torch.full((1, 1, 1, len(MOTION), NUM_MODES), -50.0)
    for number, name in enumerate(MOTION):
        logits[..., number, MODES[name].index(modes.get(name, "same"))] = 50.0
    candidates = torch.arange(len(MOTION) * NUM_MODES).view(1, 1, 1, len(MOTION), NUM_MODES) / 100
    for number, name in enumerate(MOTION):
        for mode in ("same", "as_ground", "as_air", "velocity"):
            if mode in MODES[name]:
                candidates[..., number, MODES[name].index(mode)] = 0
    in_air = torch.tensor(airborne).view(1, 1, 1)
    return MotionPrediction(logits=logits, candidates=candidates, values=values, airborne=in_air)


def test_positions_follow_the_velocities_that_were_chosen_for_the_same_frame():
    choice = sure_of(self_y="gravity", self_air_x="as_ground", self_ground_x="traction", x="velocity", y="velocity")
    changes = dict(zip(MOTION, choice.most_probable()[0, 0, 0].tolist(), strict=True))
    gravity = float(choice.candidates[0, 0, 0, MOTION.index("self_y"), MODES["self_y"].index("gravity")])
    traction = float(choice.candidates[0, 0, 0, 2, MODES["self_ground_x"].index("traction")])
    assert changes["self_y"] == pytest.approx(gravity)
    assert changes["self_ground_x"] == pytest.approx(traction)
    assert changes["self_air_x"] == pytest.approx(0.4 + traction - 0.5)
    assert changes["x"] == pytest.approx(0.4 + traction + 0.2)
    assert changes["y"] == pytest.approx(1.0 + gravity - 0.1)
    torch.testing.assert_close(choice.mean(), choice.most_probable())


def test_who_lands_goes_on_along_the_ground_with_the_velocity_that_was_chosen_in_the_air():
    choice = sure_of(airborne=True, self_air_x="drift", self_ground_x="as_air", x="automatic_smash_di")
    changes = dict(zip(MOTION, choice.most_probable()[0, 0, 0].tolist(), strict=True))
    drift = float(choice.candidates[0, 0, 0, 0, MODES["self_air_x"].index("drift")])
    beside = float(choice.candidates[0, 0, 0, MOTION.index("x"), MODES["x"].index("automatic_smash_di")])
    assert changes["self_air_x"] == pytest.approx(drift)
    assert changes["self_ground_x"] == pytest.approx(0.5 + drift - 0.4)
    assert changes["x"] == pytest.approx(0.5 + drift + 0.2 + beside)


@pytest.mark.parametrize("airborne", [True, False])
def test_each_velocity_follows_the_other_only_where_that_one_is_known(airborne):
    choice = sure_of(airborne=airborne, self_air_x="as_ground", self_ground_x="as_air")
    changes = dict(zip(MOTION, choice.most_probable()[0, 0, 0].tolist(), strict=True))
    assert changes["self_air_x"] == pytest.approx(0.0 if airborne else -0.1)
    assert changes["self_ground_x"] == pytest.approx(0.1 if airborne else 0.0)


def test_the_mean_lies_between_the_candidates():
    choice = sure_of()
    logits = choice.logits.clone()
    at = MOTION.index("attack_x"), MODES["attack_x"].index("zero")
    logits[..., at[0], at[1]] = 50.0  # as sure of it as of `same`
    mixed = replace(choice, logits=logits)
    assert float(mixed.mean()[..., at[0]]) == pytest.approx(float(choice.candidates[..., at[0], at[1]]) / 2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mamba2", "mlp"])
def test_an_untrained_network_goes_on_with_the_velocities(frames, kind):
    context = frames.slice(0, 11)
    network = build_model(replace(PHYSICS, kind=kind, hidden_sizes=(32, 16)), 10).eval()
    motion = network(context, last_only=True).motion
    assert motion is not None
    before = positions(frames.slice(8, 9))
    values = motion_values(context.slice(9, 10), before)
    changes = motion.most_probable()
    assert not changes[..., :NUM_VELOCITIES].any()
    torch.testing.assert_close(changes[..., NUM_VELOCITIES:], total_velocity(values))


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """A stretch of some games, with and without velocities if real replays are there."""
    games = np.argsort(index.facts[:, 1], kind="stable")[[0, -2, -1]]
    starts = np.cumsum(index.num_frames[games]) - index.num_frames[games] + COUNTDOWN_FRAMES + 400
    return to_frames(take_rows(read_games(index, games), index.facts[games], starts[:, None] + np.arange(120)))


def slow_right(candidates: Tensor, values: Tensor, truth: Tensor, airborne: bool, number: int) -> set[str]:
    """The modes that hold for a number of one player, one by one."""
    name = MOTION[number]
    change = float(truth[number] - values[number])
    found = set()
    for mode, label in enumerate(MODES[name]):
        expected = float(candidates[number, mode])
        if label == "as_ground":
            expected = float(truth[2] - values[0])
        if label == "as_air":
            expected = float(truth[0] - values[2])
        if label in ("velocity", "automatic_smash_di"):
            expected += float(truth[0] + truth[3]) if name == "x" else float(truth[1] + truth[4])
        is_known = {"regressed": False, "as_ground": not airborne, "as_air": airborne}.get(label, True)
        if is_known and abs(expected - change) < 2e-3:
            found.add(label)
    return found or {"regressed"}


def test_the_right_modes_are_those_that_hold_one_by_one(frames):
    context, target = frames.slice(0, 119), frames.slice(1, 120)
    candidates, _ = Physics()(context, controllers(target), None)
    truth = motion_values(target, positions(context))
    right = modes_of(Physics(), frames)
    assert right.any(-1).all()
    assert not right[..., ~mode_mask()].any()
    for row, t, player in [(0, 3, 0), (1, 50, 1), (2, 90, 0), (2, 91, 0), (1, 118, 1)]:
        for number, name in enumerate(MOTION):
            at = row, t, player
            airborne = bool(context.code_column("airborne")[at])
            expected = slow_right(candidates.changes[at], candidates.values[at], truth[at], airborne, number)
            assert {MODES[name][m] for m in range(NUM_MODES) if right[(*at, number, m)]} == expected


def test_from_a_drifted_position_the_rules_of_the_true_motion_are_right(frames):
    floats = frames.floats.clone()
    floats[..., [FLOAT_COLUMNS.index(name) for name in ("x", "y")]] += DRIFT
    drifted = replace(frames, floats=floats)
    context, target, rules = drifted.slice(0, 119), frames.slice(1, 120), modes_of(Physics(), frames)
    prediction = build_model(PHYSICS, 10)(drifted)
    sure = replace(prediction, motion=replace(prediction.motion, logits=prediction.motion.logits + 100 * rules))
    with_rules = training_loss_parts(sure, context, target, rules)["motion"]
    from_drifted = training_loss_parts(sure, context, target)["motion"]
    assert with_rules.total.sum() / with_rules.count.sum() < 0.1
    assert from_drifted.total.sum() / from_drifted.count.sum() > 10, "there every number is off the rules"


def test_training_learns_the_modes_and_every_logit_of_a_real_mode_gets_a_finite_gradient(frames):
    torch.manual_seed(0)
    model = build_model(PHYSICS, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        parts = training_loss_parts(model(frames), frames.slice(0, 119), frames.slice(1, 120))
        loss = parts["motion"].total.sum() / parts["motion"].count.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_an_imagined_fall_ends_at_the_fastest_fall_of_the_attributes():
    """A network that always repeats the last change would fall ever faster without the limit."""
    model = build_model(PHYSICS, 10).eval()
    logits = torch.zeros(len(MOTION), NUM_MODES)
    logits[MOTION.index("self_y"), MODES["self_y"].index("repeated")] = 9.0
    for name in ("x", "y"):
        logits[MOTION.index(name), MODES[name].index("velocity")] = 9.0
    model.heads.linear.weight.zero_()
    model.heads.linear.bias[-logits.numel() :] = logits.flatten()
    start = game([{"y": 150 - 3 * n, "self_y": 1 - 0.23 * n, "airborne": 1, "action": 29} for n in range(5)])
    imagination = Imagination(model, GameRules())
    dream, _ = imagination.imagine(imagination.observe(None, start), torch.zeros(1, 30, 2, 6, dtype=torch.int16))
    velocity, y = dream.float_column("self_y")[0, :, 0], dream.float_column("y")[0, :, 0]
    assert float(velocity.min()) == pytest.approx(-3.4)
    torch.testing.assert_close(y.diff(), velocity[1:])


@torch.no_grad()
def test_a_game_without_velocities_dreams_without_them(frames):
    frames = frames.slice(0, 40)
    without = replace(frames, game=torch.zeros_like(frames.game))
    imagination = Imagination(build_model(PHYSICS, 10).eval(), GameRules())
    dream, _ = imagination.imagine(imagination.observe(None, without), controller_columns(frames.slice(0, 10)))
    assert dream.floats.isfinite().all()
    assert not any(dream.float_column(name).any() for name in MOTION[:5])
