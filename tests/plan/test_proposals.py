"""Three proposals within a deadline and a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from plans import GPU_BOX, KNOWN, NETWORK, ONE_GPU, limits, measured, workload

from cluster.plan.estimate import Estimate, estimate
from cluster.plan.expectation import Expectation, change_acc_relation, expect
from cluster.plan.machines import MachineGroup
from cluster.plan.proposals import Limits, Proposal, propose
from cluster.plan.workload import Workload
from datasets.runtime.errors import UserError
from tune.analysis.scaling import Interval, ScalingPoint, fit_scaling

LARGER = replace(NETWORK, num_parameters=2_000_000, flops_per_target=2e7)
ONE, FOUR = MachineGroup(machine=ONE_GPU), MachineGroup(machine=GPU_BOX)


def proposed(own: Limits, groups: Sequence[MachineGroup] = (ONE,), *, with_larger: bool = True) -> dict[str, Proposal]:
    def estimates_of(run: Workload) -> list[Estimate]:
        return [estimate(run, [measured()], group, KNOWN) for group in groups]

    larger = workload(network=LARGER, name="large") if with_larger else None
    found = propose(workload(), larger, estimates_of, own, lambda _run: Expectation())
    return {one.name: one for one in found}


def test_without_limits_the_bold_one_has_a_larger_network_and_twice_the_targets():
    found = proposed(limits())
    assert list(found) == ["conservative", "moderate", "bold"]
    assert [one.targets for one in found.values()] == [180_000_000, 360_000_000, 720_000_000]
    assert [one.estimate.workload.name for one in found.values()] == ["medium", "medium", "large"]
    assert all(one.is_feasible for one in found.values())
    assert found["bold"].hours > 3.9 * found["moderate"].hours


def test_a_deadline_and_a_budget_cut_the_targets_and_leave_room():
    found = proposed(limits(hours=1.0, usd=100.0))
    assert all(one.is_feasible for one in found.values())
    assert found["conservative"].hours == pytest.approx(0.5, rel=0.02)
    assert found["moderate"].hours == pytest.approx(0.8, rel=0.01)
    assert found["moderate"].reason == "cut to what fits into 80% of the limits"
    # With the larger network not even the targets that were asked for would fit, so it stays with this one.
    assert found["bold"].estimate.workload.name == "medium" and found["bold"].hours == pytest.approx(0.97, rel=0.01)
    by_budget = proposed(limits(usd=1.0))
    assert by_budget["moderate"].usd == pytest.approx(0.8, rel=0.01)


def test_the_cheapest_machines_that_are_fast_enough_are_taken():
    assert proposed(limits(), [ONE, FOUR])["moderate"].group is ONE
    assert proposed(limits(hours=0.5), [ONE, FOUR])["moderate"].group is FOUR


def test_what_cannot_be_kept_is_proposed_in_full_and_says_why():
    found = proposed(limits(hours=0.001))["moderate"]
    assert not found.is_feasible and found.targets == 360_000_000
    assert found.reason == "1.0 h, 0.0 h until the deadline"


def test_risks_are_named():
    spot = replace(FOUR, is_spot=True)
    risks = proposed(limits(hours=1.0), [spot], with_larger=False)["bold"].risks
    assert any("spot machines may be taken away" in risk for risk in risks)
    assert any("not measured for exactly this run" in risk for risk in risks)


@pytest.mark.parametrize("usd", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(usd):
    with pytest.raises(UserError, match="expected a positive number"):
        limits(usd=usd)


def a_fit():
    """L = 0.2 + 20 N^-0.4 + 50 D^-0.35 at three sizes and three durations, with a little scatter."""
    points = [
        ScalingPoint(
            num_parameters=n, num_targets=d,
            loss=(0.2 + 20 * n**-0.4 + 50 * d**-0.35) * (1 + 0.001 * (-1) ** (i + j)),
        )
        for i, n in enumerate((2e5, 1e6, 5e6, 2e7))
        for j, d in enumerate((1e6, 1e7, 1e8, 1e9))
    ]  # fmt: skip
    return fit_scaling(points, num_replicates=50)


def test_the_scaling_fit_says_what_to_expect_with_intervals():
    fit = a_fit()
    losses = [0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    relation = change_acc_relation([(loss, 1 / (1 + 2 * loss**2)) for loss in losses])
    kinds = {("mamba2", 4, "sequence")}
    found = expect(workload(), fit, relation, "K = 10", kinds)
    assert found.val_loss is not None and found.change_acc is not None and found.reason is None
    expected = 0.2 + 20 * 1e6**-0.4 + 50 * 3.6e8**-0.35
    value, low, high = found.val_loss
    assert value == pytest.approx(expected, rel=0.02) and low <= value <= high
    value, low, high = found.change_acc
    assert value == pytest.approx(1 / (1 + 2 * expected**2), rel=0.02) and low < value < high
    assert "has no mlp" in str(expect(workload(network=replace(NETWORK, kind="mlp")), fit, None, "", kinds).reason)
    assert "too far to say" in str(expect(workload(10**13), fit, relation, "", kinds).reason)


def test_without_a_sweep_or_a_relation_nothing_is_made_up():
    assert Expectation().plain() == {
        "val_loss": None,
        "change_acc": None,
        "expected_context": None,
        "expected_reason": "no sweep over sizes and durations is named (--sweep FOLDER)",
    }
    assert change_acc_relation([(0.5, 0.5)] * 20) is None
    assert change_acc_relation([(0.1 * i, 0.5) for i in range(1, 5)]) is None
    rising = [(0.1 * i, 0.1 * i / 2) for i in range(1, 10)]
    assert change_acc_relation(rising) is None


def test_more_scatter_of_the_runs_makes_the_interval_of_change_acc_wider():
    losses = [0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    point = Interval(value=0.5, low=0.5, high=0.5)
    widths = []
    for scatter in (0.0, 0.05):
        pairs = [(loss, 1 / (1 + 2 * loss**2) + scatter * (-1) ** i) for i, loss in enumerate(losses)]
        relation = change_acc_relation(pairs)
        assert relation is not None
        value, low, high = relation(point)
        assert low <= value <= high
        widths.append(high - low)
    assert widths[0] < 1e-6 < widths[1]
