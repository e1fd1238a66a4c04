"""From the older system's own figure, 46 minutes for an epoch of 2,000 games, its own table of hours and dollars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.plan.estimate import estimate
from cluster.plan.machines import MachineGroup, catalogue
from cluster.plan.profile import read_profile
from cluster.plan.workload import Workload

PROFILE = Path(__file__).with_name("older_system.json")
FRAMES_PER_GAME = 8_280
USD_PER_HOUR = 2.78
"""Of its A100: its 46 minutes cost 2.13 dollars."""
LARGE_FACTOR = 25 / 8.4
"""Its 25 hours for the larger network on 22,000 games, over its 8.4 for the smaller one."""


@pytest.mark.parametrize(
    ("games", "epochs", "factor", "hours", "usd"),
    [
        (2_000, 1, 1.0, 46 / 60, 2.13),
        (2_000, 2, 1.0, 91 / 60, 4.2),
        (22_000, 1, 1.0, 8.4, 23.0),
        (22_000, 1, LARGE_FACTOR, 25.0, 70.0),
        (50_000, 1, LARGE_FACTOR, 57.0, 158.0),
        (100_000, 1, LARGE_FACTOR, 114.0, 316.0),
    ],
)
def test_the_older_systems_table_follows_from_its_46_minutes(games, epochs, factor, hours, usd):
    measured = read_profile(PROFILE)
    network = replace(measured.network, flops_per_target=factor * measured.network.flops_per_target)
    run = Workload(
        name="older", network=network, targets=games * FRAMES_PER_GAME * epochs, games=games,
        frames_per_game=FRAMES_PER_GAME, validation_every=10**12, validation_frames=0, final_frames=0,
        checkpoint_every_s=0.0, kept_checkpoints=1, pool_frames=1,
    )  # fmt: skip
    a100 = replace(catalogue().machines["a2-highgpu-1g"], usd_per_hour=USD_PER_HOUR)
    found = estimate(run, [measured], MachineGroup(machine=a100), catalogue())
    assert found.hours == pytest.approx(hours, rel=0.02)
    assert found.usd == pytest.approx(usd, rel=0.02)
    assert found.workload.epochs == pytest.approx(epochs)
    assert found.speed.estimates == () if factor == 1.0 else "scaled by FLOPs" in found.speed.estimates[0]


def test_an_eighth_of_a_p4d_costs_as_much():
    """8.4 hours at 2.74 dollars, an eighth of the p4d's listed price, are its 23 dollars as well."""
    p4d = catalogue().machines["p4d.24xlarge"]
    assert 22_000 * FRAMES_PER_GAME / 6_000 / 3_600 * p4d.usd_per_hour / p4d.gpus == pytest.approx(23, abs=0.5)
