"""benchmarks/dreams/attributes.py: constants that games were made with are found in them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from wm.model.motion.ledges import CATCH, LEDGES, PLACES, WAIT

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from dreams.attributes import Transitions, drive, fit_air, ledge_places

MARTH, BATTLEFIELD, FALL = 18, 31, 29


def transitions(**columns: tuple[np.ndarray, np.ndarray]) -> Transitions:
    """Columns before and after."""
    return Transitions(*({name: sides[side] for name, sides in columns.items()} for side in (0, 1)))


def test_the_constants_of_a_fall_and_of_drift_are_found_in_one():
    random = np.random.default_rng(0)
    num_frames, gravity, fall_speed, fast_fall_speed = 6_000, 0.085, 2.2, 2.5
    constants = {"air_stick": 0.03, "air_base": 0.02, "air_speed": 0.9, "air_friction": 0.005}
    stick = np.repeat(random.choice([-1.0, -0.6, 0.0, 0.45, 0.8, 1.0], num_frames // 20), 20)
    x, y = np.zeros(num_frames + 1), np.zeros(num_frames + 1)
    for t in range(num_frames):
        x[t + 1] = float(drive(x[t : t + 1], stick[t : t + 1], *constants.values())[0])
        y[t + 1] = max(y[t] - gravity, -fall_speed) if t % 60 else 2.4
        if t % 60 > 56 and t % 120 > 60:
            y[t + 1] = -fast_fall_speed
    ones, action = np.ones(num_frames), np.full(num_frames, FALL)
    found = fit_air(
        transitions(
            self_air_x=(x[:-1], x[1:]),
            self_y=(y[:-1], y[1:]),
            stick=(stick, stick),
            airborne=(ones, ones),
            action=(action, action),
        )
    )
    expected = constants | {"gravity": gravity, "fall_speed": fall_speed, "fast_fall_speed": fast_fall_speed}
    assert found == pytest.approx(expected, abs=1e-6)


def test_places_on_ledges_are_found_on_both_sides_and_missing_ones_are_not_made_up():
    distance, height = LEDGES[BATTLEFIELD]
    outwards, up = (np.array(values) for values in PLACES[MARTH])
    ages = np.array([1, 2, 3, 4, 5, 7, 0])
    numbers = np.array([0, 1, 2, 3, 4, 6, 7])
    action = np.where(numbers < 7, CATCH, WAIT)
    side = np.where(numbers % 2, -1, 1)
    x, y = side * (distance + outwards[numbers]), height + up[numbers]
    stage = np.full(len(x), BATTLEFIELD)
    found = ledge_places(
        transitions(x=(x, x), y=(y, y), stage=(stage, stage), action=(action, action), state_age=(ages, ages))
    )
    assert np.isnan(found[5]).all()
    for number in numbers:
        assert found[number] == pytest.approx((outwards[number], up[number]), abs=1e-4)
