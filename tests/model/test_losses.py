"""The validation and the training loss, against slow references that visit every entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, read_games
from datasets.loading.sequences import take_rows
from wm.model.animation import FIRST_AGES
from wm.model.encoding import Frames, category, to_frames
from wm.model.heads import Prediction
from wm.model.motion.candidates import MOTION, NUM_MODES, mode_mask
from wm.model.motion.choice import MotionPrediction
from wm.model.state_fields import FLAGS
from wm.objective.losses import (
    TRAINING_LOSS_FIELDS,
    PartSum,
    ground_truth,
    training_loss_factors,
    training_loss_parts,
    val_loss_parts,
    weighted_sum,
)
from wm.objective.weights import (
    RAW_UNIT_WEIGHTS,
    SMOOTH_L1_BETA,
    STATE_LOSS_WEIGHTS,
    TRAINING_LOSS_WEIGHTS,
    VAL_LOSS_WEIGHTS,
)

DELTAS = {"percent": 0.01, "x": 0.05, "y": 0.05, "shield": 0.01}
VELOCITIES = dict.fromkeys(("self_air_x", "self_y", "self_ground_x", "attack_x", "attack_y"), 0.05)
DYNAMICS = {"hitlag": 0.1, "stocks": 0.25, "combo": 0.1}
CATEGORIES = {"action": 400, "jumps": 8, "l_cancel": 3, "hurtbox": 3, "ground": 32, "last_attack": 64}
NUM_FRAMES = 4
PRESENCE = slice(1, 5)
"""GAME_COLUMNS that tell which fields a game has."""

Errors = dict[str, list[list[list[float]]]]
"""Part -> errors of the valid entries of each frame of each sequence."""


@pytest.fixture(scope="module")
def frames(index: GameIndex) -> Frames:
    """Stretches of play from games of every kind of version; where all are new, some made to look old."""
    kinds = np.unique(index.facts[:, PRESENCE], axis=0, return_index=True)[1]
    games = np.concatenate([kinds, np.arange(len(index))[:4]])
    arrays = read_games(index, np.unique(games))
    lengths = index.num_frames[np.unique(games)]
    offsets = dict(zip(np.unique(games).tolist(), (np.cumsum(lengths) - lengths).tolist(), strict=True))
    starts = np.array([offsets[int(game)] for game in games]) + 700
    found = to_frames(take_rows(arrays, index.facts[games], starts[:, None] + 5 * np.arange(NUM_FRAMES)))
    found.game[-3:, PRESENCE] = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 1]], dtype=torch.int16)
    return found


@pytest.fixture(scope="module")
def prediction(frames: Frames) -> Prediction:
    """A prediction for each of them."""
    return random_prediction(frames.floats.shape[0], NUM_FRAMES - 1, seed=5)


def random_prediction(num_examples: int, num_frames: int, seed: int) -> Prediction:
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(num_examples, num_frames, 2, width, generator=generator)

    return Prediction(
        deltas=normal(4),
        velocities=normal(5),
        dynamics=3 * normal(3),
        binaries=2 * normal(3),
        categories={name: 3 * normal(size) for name, size in CATEGORIES.items()},
    )


def before_and_after(frames: Frames) -> tuple[Frames, Frames]:
    return frames.slice(0, frames.num_frames - 1), frames.slice(1, frames.num_frames)


def raw(frames: Frames, place: tuple[int, int, int], name: str) -> float:
    """One number in raw units, straight from its column."""
    if name in FLOAT_COLUMNS:
        return float(frames.floats[place][FLOAT_COLUMNS.index(name)])
    return float(frames.codes[place][CODE_COLUMNS.index(name)])


def has(frames: Frames, row: int, field: str) -> bool:
    return bool(frames.game[row, GAME_COLUMNS.index(f"has_{field}")])


def squared(name: str, predicted: float, true: float, scale: float) -> float:
    return (predicted * scale - true * scale) ** 2


def smooth_l1(name: str, predicted: float, true: float, scale: float) -> float:
    error = abs(predicted - true)
    small = error < SMOOTH_L1_BETA
    value = error**2 / (2 * SMOOTH_L1_BETA) if small else error - SMOOTH_L1_BETA / 2
    return value * RAW_UNIT_WEIGHTS.get(name, 1.0)


def slow_parts(
    prediction: Prediction,
    frames: Frames,
    number_error: Callable[[str, float, float, float], float],
    part_of_delta: Callable[[str], str],
) -> Errors:
    """Errors of every valid entry of every frame."""
    num_examples, num_frames = prediction.deltas.shape[:2]
    names = [*VAL_LOSS_WEIGHTS, "position"]
    parts: Errors = {name: [[[] for _ in range(num_frames)] for _ in range(num_examples)] for name in names}
    for row in range(num_examples):
        for number in range(num_frames):
            for player in (0, 1):
                last, place = (row, number, player), (row, number + 1, player)

                def note(part: str, error: float, row: int = row, number: int = number) -> None:
                    parts[part][row][number].append(error)

                for column, (name, scale) in enumerate(DELTAS.items()):
                    true = raw(frames, place, name) - raw(frames, last, name)
                    predicted = float(prediction.deltas[last][column])
                    note(part_of_delta(name), number_error(name, predicted, true, scale))
                for column, (name, scale) in enumerate(VELOCITIES.items()):
                    if has(frames, row, "velocity"):
                        true = raw(frames, place, name) - raw(frames, last, name)
                        predicted = float(prediction.velocities[last][column])
                        note("velocity", number_error(name, predicted, true, scale))
                for column, (name, scale) in enumerate(DYNAMICS.items()):
                    if name != "hitlag" or has(frames, row, "hitlag"):
                        predicted = float(prediction.dynamics[last][column])
                        note("dynamics", number_error(name, predicted, raw(frames, place, name), scale))
                truths = (
                    raw(frames, place, "facing") > 0,
                    raw(frames, place, "hurtbox") != 0,
                    raw(frames, place, "airborne") == 0,
                )
                for column, true in enumerate(truths):
                    if column != 1 or has(frames, row, "hurtbox"):
                        chance = 1 / (1 + math.exp(-float(prediction.binaries[last][column])))
                        note("binary", -math.log(chance if true else 1 - chance))
                for name in CATEGORIES:
                    if name != "hurtbox" or has(frames, row, "hurtbox"):
                        logits = prediction.categories[name][last].double()
                        true = int(category(frames, name)[place])
                        note(name, float(logits.exp().sum().log() - logits[true]))
    return parts


def slow_loss(parts: Errors, weights: dict[str, float]) -> float:
    """The weighted sum of means over valid entries."""
    loss = 0.0
    for name, weight in weights.items():
        entries = [error for row in parts[name] for frame in row for error in frame]
        loss += weight * sum(entries) / len(entries)
    return loss


def pooled_loss(parts: dict[str, PartSum], weights: dict[str, float]) -> float:
    return float(sum(weight * parts[name].total.sum() / parts[name].count.sum() for name, weight in weights.items()))


def assert_equal_parts(fast: dict[str, PartSum], slow: Errors) -> None:
    for name, part in fast.items():
        totals = torch.tensor([[sum(frame) for frame in row] for row in slow[name]])
        counts = torch.tensor([[float(len(frame)) for frame in row] for row in slow[name]])
        torch.testing.assert_close(part.total, totals, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(part.count, counts), name


def test_each_part_of_val_loss_equals_its_entries_summed_one_by_one(prediction, frames):
    fast = val_loss_parts(prediction, *before_and_after(frames))
    slow = slow_parts(prediction, frames, squared, lambda name: "continuous")
    assert set(fast) == set(VAL_LOSS_WEIGHTS)
    assert_equal_parts(fast, slow)
    assert pooled_loss(fast, VAL_LOSS_WEIGHTS) == pytest.approx(slow_loss(slow, VAL_LOSS_WEIGHTS), rel=1e-5)


def test_each_part_of_the_optimised_loss_equals_its_entries_summed_one_by_one(prediction, frames):
    fast = training_loss_parts(prediction, *before_and_after(frames))
    slow = slow_parts(prediction, frames, smooth_l1, lambda name: "position" if name in "xy" else "continuous")
    weights = {name: weight for name, weight in TRAINING_LOSS_WEIGHTS.items() if name not in STATE_LOSS_WEIGHTS}
    assert set(fast) == set(weights)
    assert_equal_parts(fast, slow)
    assert pooled_loss(fast, weights) == pytest.approx(slow_loss(slow, weights), rel=1e-5)


def test_the_weights_are_those_of_the_older_system():
    assert VAL_LOSS_WEIGHTS == {
        "continuous": 1, "velocity": 0.5, "dynamics": 0.5, "binary": 0.5, "action": 2, "jumps": 0.5,
        "l_cancel": 0.3, "hurtbox": 0.3, "ground": 0.3, "last_attack": 0.3,
    }  # fmt: skip


@pytest.mark.parametrize("parts_of", [val_loss_parts, training_loss_parts])
@pytest.mark.parametrize(
    ("field", "part"), [("velocity", "velocity"), ("hitlag", "dynamics"), ("hurtbox", "binary"), ("hurtbox", "hurtbox")]
)
def test_an_absent_field_changes_nothing(prediction, frames, parts_of, field, part):
    absent = torch.tensor([not has(frames, row, field) for row in range(frames.floats.shape[0])])
    assert absent.any()
    assert not absent.all()
    other = with_other_values(prediction, field, absent)
    before, after = before_and_after(with_other_truth(frames, field, absent))
    first, second = parts_of(prediction, *before_and_after(frames)), parts_of(other, before, after)
    for name in first:
        assert torch.equal(first[name].count, second[name].count)
        torch.testing.assert_close(first[name].total, second[name].total)
    everywhere = parts_of(with_other_values(prediction, field, torch.ones_like(absent)), *before_and_after(frames))
    present = everywhere[part].total[~absent]
    assert (present - first[part].total[~absent]).abs().max() > 0.01


def with_other_values(prediction: Prediction, field: str, rows: Tensor) -> Prediction:
    """The prediction with another answer for one optional field in some rows."""

    def moved(values: Tensor, columns: list[int]) -> Tensor:
        values = values.clone()
        for column in columns:
            values[..., column] += 7 * rows[:, None, None]
        return values

    if field == "velocity":
        return replace(prediction, velocities=moved(prediction.velocities, list(range(5))))
    if field == "hitlag":
        return replace(prediction, dynamics=moved(prediction.dynamics, [0]))
    hurtbox = moved(prediction.categories["hurtbox"], [2])
    return replace(
        prediction,
        binaries=moved(prediction.binaries, [1]),
        categories=prediction.categories | {"hurtbox": hurtbox},
    )


def with_other_truth(frames: Frames, field: str, rows: Tensor) -> Frames:
    """The frames with other values in one optional field's columns."""
    floats, codes = frames.floats.clone(), frames.codes.clone()
    names = list(VELOCITIES) if field == "velocity" else ["hitlag"] if field == "hitlag" else []
    for name in names:
        floats[rows, ..., FLOAT_COLUMNS.index(name)] += torch.arange(NUM_FRAMES)[:, None]
    if field == "hurtbox":
        codes[rows, ..., CODE_COLUMNS.index("hurtbox")] = 2
    return replace(frames, floats=floats, codes=codes)


def test_an_absent_fields_outputs_get_no_gradient(frames):
    prediction = random_prediction(frames.floats.shape[0], NUM_FRAMES - 1, seed=6)
    leaves = [prediction.velocities, prediction.dynamics, prediction.binaries, prediction.categories["hurtbox"]]
    for leaf in leaves:
        leaf.requires_grad_()
    parts = training_loss_parts(prediction, *before_and_after(frames))
    sum(part.total.sum() / part.count.sum() for part in parts.values()).backward()
    for row in range(frames.floats.shape[0]):
        assert bool(leaves[0].grad[row].any()) == has(frames, row, "velocity")
        assert bool(leaves[1].grad[row, ..., 0].any()) == has(frames, row, "hitlag")
        assert bool(leaves[2].grad[row, ..., 1].any()) == has(frames, row, "hurtbox")
        assert bool(leaves[3].grad[row].any()) == has(frames, row, "hurtbox")
        assert leaves[1].grad[row, ..., 1:].all()


def test_means_pooled_over_batches_are_those_of_one_batch(prediction, frames):
    whole = val_loss_parts(prediction, *before_and_after(frames))
    sums: dict[str, Tensor] = {}
    for rows in torch.arange(frames.floats.shape[0]).split(3):
        part = Frames(floats=frames.floats[rows], codes=frames.codes[rows], game=frames.game[rows])
        predicted = Prediction(
            deltas=prediction.deltas[rows],
            velocities=prediction.velocities[rows],
            dynamics=prediction.dynamics[rows],
            binaries=prediction.binaries[rows],
            categories={name: logits[rows] for name, logits in prediction.categories.items()},
        )
        for name, found in val_loss_parts(predicted, *before_and_after(part)).items():
            sums[name] = sums.get(name, torch.zeros(2)) + torch.stack([found.total.sum(), found.count.sum()])
    for name, part in whole.items():
        assert sums[name][1] == part.count.sum()
        torch.testing.assert_close(sums[name][0] / sums[name][1], part.total.sum() / part.count.sum())


@pytest.mark.parametrize("parts_of", [val_loss_parts, training_loss_parts])
def test_a_prediction_that_is_the_truth_has_no_loss(frames, parts_of):
    before, after = before_and_after(frames)
    truth = ground_truth(before, after)
    perfect = Prediction(
        deltas=truth.deltas,
        velocities=truth.velocities,
        dynamics=truth.dynamics,
        binaries=(truth.binaries * 2 - 1) * 50,
        categories={
            name: 50.0 * torch.nn.functional.one_hot(truth.categories[name], size) for name, size in CATEGORIES.items()
        },
    )
    for name, part in parts_of(perfect, before, after).items():
        assert part.total.abs().max() < 1e-6, name


def with_state_parts(prediction: Prediction, seed: int) -> Prediction:
    """The prediction of a network that also predicts hitstun, animation, three flags and modes of motion."""
    shape = prediction.deltas.shape[:3]
    noise = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed))
    modes = torch.randn(*shape, len(MOTION), NUM_MODES, generator=torch.Generator().manual_seed(seed))
    motion = MotionPrediction(
        logits=modes.masked_fill(~mode_mask(), -torch.inf),
        candidates=modes / 10,
        values=modes[..., 0],
        airborne=noise[..., 0] > 0,
    )
    return replace(
        prediction, hitstun=5 * noise[..., 0], animation=noise[..., 1:4], flags=noise[..., 4:], motion=motion
    )


def slow_animation_error(frames: Frames, row: int, number: int, player: int, said: Tensor) -> float:
    last, place = (row, number, player), (row, number + 1, player)
    before, after = raw(frames, last, "state_age"), raw(frames, place, "state_age")
    restart, step, first = said.tolist()
    action = int(category(frames, "action")[place])
    same = action == int(category(frames, "action")[last])
    begins = not same or after < before
    predicted = FIRST_AGES[action] + first if begins else before + step
    chance = 1 / (1 + math.exp(-restart))
    entropy = -math.log(chance if begins else 1 - chance) if same else 0.0
    return entropy + smooth_l1("state_age", predicted, after, 1.0)


def test_hitstun_animation_and_flags_equal_their_entries_summed_one_by_one(prediction, frames):
    said = with_state_parts(prediction, 7)
    fast = training_loss_parts(said, *before_and_after(frames))
    flags = list(FLAGS.values())[:3]
    for row in range(frames.floats.shape[0]):
        for number in range(NUM_FRAMES - 1):
            sums = {"hitstun": 0.0, "animation": 0.0, "flags": 0.0}
            for player in (0, 1):
                last, place = (row, number, player), (row, number + 1, player)
                sums["animation"] += slow_animation_error(frames, row, number, player, said.animation[last])
                if has(frames, row, "state_flags"):
                    true = raw(frames, place, "hitstun")
                    sums["hitstun"] += smooth_l1("hitstun", float(said.hitstun[last]), true, 1.0)
                    for logit, (column, mask) in zip(said.flags[last].tolist(), flags, strict=True):
                        chance = 1 / (1 + math.exp(-logit))
                        is_set = bool(int(raw(frames, place, column)) & mask)
                        sums["flags"] += -math.log(chance if is_set else 1 - chance) / len(flags)
            for name, total in sums.items():
                assert float(fast[name].total[row, number]) == pytest.approx(total, rel=1e-3, abs=1e-5), name
                valid = name == "animation" or has(frames, row, "state_flags")
                assert float(fast[name].count[row, number]) == 2.0 * valid


def test_the_loss_is_the_weighted_mean_of_the_parts_that_the_network_predicts(prediction, frames):
    factors = training_loss_factors(frames.game, NUM_FRAMES - 1)
    for said in (prediction, with_state_parts(prediction, 8)):
        parts = training_loss_parts(said, *before_and_after(frames))
        weights = {name: TRAINING_LOSS_WEIGHTS[name] for name in parts}
        assert float(weighted_sum(factors, parts)) == pytest.approx(pooled_loss(parts, weights), rel=1e-5)


def test_the_factors_make_means_of_totals_without_looking_at_any_entry(prediction, frames):
    before, after = frames.slice(0, NUM_FRAMES - 1), frames.slice(1, NUM_FRAMES)
    factors = training_loss_factors(frames.game, NUM_FRAMES - 1)
    parts = training_loss_parts(with_state_parts(prediction, 9), before, after)
    assert len(factors) == len(parts) == len(TRAINING_LOSS_FIELDS)
    for factor, name in zip(factors, TRAINING_LOSS_FIELDS, strict=True):
        part = parts[name]
        mean = part.total.sum() / part.count.sum().clamp(min=1)
        torch.testing.assert_close(factor * part.total.sum(), TRAINING_LOSS_WEIGHTS[name] * mean)
